"""Structured logs: one JSON object a line, with the ids of the request and the trace that a line belongs to."""

import contextvars
import datetime
import json
import logging
import sys
from typing import Any

from service.observability.tracing import trace_id

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""Id of the request being handled in this context."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON; what is passed as `extra` becomes fields. Texts of callers are never logged."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            fields["request_id"] = current
        if (trace := trace_id()) is not None:
            fields["trace_id"] = trace
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """Text for a terminal, with the id of the request that a line belongs to at its end."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without a traceback."""
        current = request_id.get()
        return super().formatMessage(record) + ("" if current is None else f" [{current}]")


def configure_logging(level: str, json_lines: bool | None = None) -> None:
    """Send all logs to standard error, as JSON lines or as plain text; by default as what suits it."""
    if json_lines is None:
        json_lines = not sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    plain = PlainFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if json_lines else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("assay").setLevel(logging.NOTSET)  # whatever ran before in this process
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
