"""The one map from what went wrong to status, code and body."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.api.schemas import PROMPT_FORMS, ErrorBody, ErrorReply
from service.observability.logs import request_id
from service.observability.metrics import FAULTS, Metrics
from service.observability.tracing import describe
from service.scoring import errors as scoring

logger = logging.getLogger("assay.api")

_SCORING: dict[type[scoring.ScoringError], tuple[int, str]] = {
    scoring.TooManyTokensError: (422, "too_many_tokens"),
    scoring.EmptyTextError: (422, "empty_text"),
    scoring.UnrenderablePromptError: (422, "invalid"),
    scoring.ModelMismatchError: (409, "model_mismatch"),
    scoring.QueueFullError: (429, "queue_full"),
    scoring.NeverFitsError: (413, "too_many_items"),
    scoring.DeadlineExceededError: (504, "deadline_exceeded"),
    scoring.NonFiniteScoreError: (500, "nonfinite_score"),
    scoring.EngineFailedError: (503, "engine_failed"),
}
_STATUS = {
    404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type",
    503: "too_many_bodies",
}  # fmt: skip
"""Codes of what the framework and the middleware refuse."""
_REJECTION = {
    "deadline_exceeded": "deadline", "method_not_allowed": "method", "unsupported_media_type": "media_type",
    "too_many_items": "too_many_items", "headers_too_large": "headers",
}  # fmt: skip
_TYPE = re.compile(r"str|int|float|.*[\[(].*|[A-Z]\w*")
"""Steps of pydantic's paths that name which of several types was tried; no field of a schema is called so."""
_NAME_CHARS, _FIELD_CHARS, _MESSAGE_CHARS = 100, 300, 600
"""The longest name, field and message of a reply; what is cut ends in dots."""


_METHODS = ("GET", "POST", "PUT")
"""Those that any route has."""

Part = Literal["prompt", "response"]
FieldName = Callable[[int, Part], str]
"""Where in a request's body the text of an item is."""


class ApiError(HTTPException):
    """A refusal that the API layer itself decides on."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(status, message)
        self.code = code
        self.field = field
        self.retry_after = retry_after


@dataclass(frozen=True)
class Failure:
    """Why a request has no scores; for the fields see `service.api.schemas.ErrorBody`."""

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after: float | None = None


ErrorShape = Callable[[Failure], object]
"""The JSON of an error in the words of one dialect."""


def _native(failure: Failure) -> object:
    body = ErrorBody(
        code=failure.code,
        message=failure.message,
        field=failure.field,
        request_id=request_id.get(),
        retry_after_s=failure.retry_after,
    )
    return ErrorReply(error=body).model_dump(exclude_none=True)


def error_response(
    status: int, code: str, message: str, field: str | None = None, retry_after: float | None = None,
    shape: ErrorShape = _native,
) -> JSONResponse:  # fmt: skip
    """The reply for one failure; Retry-After is whole seconds, rounded up, as HTTP wants it.

    However long a text found its way into the message, say by a chat template that repeats what it refuses, the reply
    is short.
    """
    describe(error=code)
    where = None if field is None else _short(field, _FIELD_CHARS)
    failure = Failure(status, code, _short(message, _MESSAGE_CHARS), where, retry_after)
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return JSONResponse(shape(failure), status, headers)


def _item_field(request: Request, error: scoring.ScoringError) -> str | None:
    """Where the text at fault is; routes leave in `request.state` how to name it."""
    name: FieldName | None = getattr(request.state, "field_name", None)
    return None if error.item is None or name is None else name(error.item, error.part)


def install_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Give every exception its reply, and count every refusal by reason."""

    def reply(
        request: Request, status: int, code: str, message: str, field: str | None = None,
        retry_after: float | None = None, reason: str | None = None,
    ) -> JSONResponse:  # fmt: skip
        if code in FAULTS:
            metrics.faults.labels(code).inc()
        else:
            metrics.rejected.labels(reason or _REJECTION.get(code, code)).inc()
        shape: ErrorShape = getattr(request.state, "error_shape", _native)
        statuses: Mapping[int | str, int] = getattr(request.state, "statuses", {})
        status = statuses.get(code, statuses.get(status, status))
        return error_response(status, code, message, field, retry_after, shape)

    async def on_api_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return reply(request, error.status_code, error.code, error.detail, error.field, error.retry_after)

    async def on_scoring_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, scoring.ScoringError)
        status, code = _SCORING[type(error)]
        retry_after, reason = None, None
        if isinstance(error, scoring.QueueFullError):
            retry_after, reason = error.retry_after, error.by
        elif status == 503:
            retry_after = 1.0
            logger.error("engine failure: %s", _short(str(error), _MESSAGE_CHARS))
        return reply(request, status, code, str(error), _item_field(request, error), retry_after, reason)

    async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # All other problems are found while the body is decoded.
        return reply(request, 422, "invalid", "a JSON object is missing as the body")

    async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = error.detail
        path = _short(request.scope["path"])  # not request.url, which the Host header bends
        if error.status_code == 404:
            message = f"there is nothing at {path}; the routes are listed under /docs"
        elif error.status_code == 405:
            # Of all routes at this path: the router names the methods of one alone.
            if allowed := ", ".join(method for method in _METHODS if _has_route(request, method)):
                error.headers = {**(error.headers or {}), "Allow": allowed}
            allowed = (error.headers or {}).get("Allow", "another method")
            message = f"{_short(request.method)} is not allowed at {path}; use {allowed}"
        response = reply(request, error.status_code, _STATUS.get(error.status_code, "invalid"), message)
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(scoring.ScoringError, on_scoring_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _has_route(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)


def unknown_field(path: Sequence[str | int]) -> ApiError:
    """The refusal of a field that no schema has."""
    message = f"unknown field {_short(str(path[-1]))!r}; remove it (the fields are listed under /docs)"
    return ApiError(422, "invalid", message, _dotted(path))


def invalid(error: ValidationError) -> ApiError:
    """The refusal of a body for the first of its problems; their structure was checked, so that they are few."""
    return ApiError(422, "invalid", *_explain(error.errors(include_url=False, include_input=False)))


def _explain(problems: Sequence[Any]) -> tuple[str, str | None]:
    """Message and field of the first problem. The input itself is not echoed: it may be huge, or not encodable."""
    first = problems[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        message = f"the field {_short(str(first['loc'][-1]))!r} is missing"
    others = len(problems) - 1
    more = f" (and {others} more {'problem' if others == 1 else 'problems'})" if others else ""
    steps = [step for step in first["loc"] if step not in PROMPT_FORMS and not _TYPE.fullmatch(str(step))]
    return message + more, _dotted(steps)


def _dotted(path: Sequence[str | int]) -> str | None:
    """A path as callers write it."""
    return ".".join(_short(str(step)) for step in path) or None


def _short(text: str, characters: int = _NAME_CHARS) -> str:
    """What may hold a text of the caller, short enough to send back."""
    return text if len(text) <= characters else f"{text[:characters]}..."
