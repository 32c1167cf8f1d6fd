"""Logs: a JSON object a line, with the request it belongs to."""

import json
import logging
import sys

import pytest

from service.observability.logs import JsonFormatter, configure_logging, request_id


def formatted(**fields) -> dict:
    record = logging.makeLogRecord({"name": "assay.x", "levelname": "INFO", "msg": "it took %d", "args": (3,)} | fields)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_line():
    line = formatted(created=0)
    assert line == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "assay.x",
        "message": "it took 3",
    }


def test_extra_fields_and_the_request():
    token = request_id.set("abc")
    try:
        line = formatted(status=200, odd=object)
    finally:
        request_id.reset(token)
    assert (line["status"], line["request_id"]) == (200, "abc")
    assert "object" in line["odd"]
    assert "request_id" not in formatted()


def test_an_exception_and_line_breaks():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        line = formatted(exc_info=sys.exc_info(), msg="one\ntwo", args=())
    assert line["message"] == "one\ntwo"
    assert "ValueError: first\nsecond" in line["exception"]


@pytest.fixture
def root():
    """The root logger, as it was afterwards."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    logger.handlers[:] = []
    yield logger
    logger.handlers[:], logger.level = before


@pytest.mark.parametrize("json_lines", [True, False])
def test_all_logs_go_to_standard_error(root, capsys, json_lines):
    configure_logging("warning", json_lines)
    logging.getLogger("assay.server").info("not this")
    logging.getLogger("uvicorn.error").warning("but this")
    out, err = capsys.readouterr()
    assert out == ""
    assert "not this" not in err
    (line,) = [line for line in err.splitlines() if "but this" in line]  # other threads of the process may log too
    assert line.startswith("{") == json_lines


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_text_and_anything_else_json(root, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configure_logging("info")
    logging.getLogger("assay.server").info("this")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "this" in line]
    assert line.startswith("{") != terminal


def test_a_plain_line_ends_with_the_id_of_its_request(root, capsys):
    configure_logging("info", json_lines=False)
    token = request_id.set("r-7")
    try:
        logging.getLogger("assay.server").info("in a request")
    finally:
        request_id.reset(token)
    assert "in a request [r-7]\n" in capsys.readouterr().err
