"""Statuses and bodies become the right types, and the types travel."""

import pickle

import pytest

from assay_client import errors
from assay_client.errors import AssayError
from assay_client.failures import error_from_reply, shift_items


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (302, None, errors.BadReplyError),
        (400, "invalid_json", errors.InvalidRequestError),
        (401, "unauthorized", errors.UnauthorizedError),
        (403, None, errors.UnauthorizedError),
        (404, "not_found", errors.InvalidRequestError),
        (409, "model_mismatch", errors.ModelMismatchError),
        (413, "too_many_items", errors.TooLargeError),
        (413, None, errors.TooLargeError),
        (422, "invalid", errors.InvalidRequestError),
        (422, "empty_text", errors.InvalidRequestError),
        (422, "too_many_tokens", errors.TooLargeError),
        (429, "queue_full", errors.OverloadedError),
        (500, "internal", errors.ServerError),
        (500, "nonfinite_score", errors.NonFiniteScoreError),
        (501, None, errors.ServerError),
        (502, None, errors.UnavailableError),
        (503, "draining", errors.UnavailableError),
        (504, "deadline_exceeded", errors.DeadlineExceededError),
        (504, None, errors.UnavailableError),
    ],
)
def test_each_refusal_has_its_type(status: int, code: str | None, kind: type[AssayError]) -> None:
    body = b"<html>" if code is None else b'{"error":{"code":"%b","message":"m"}}' % code.encode()
    error = error_from_reply(status, {"X-Request-Id": "r"}, body)
    assert type(error) is kind
    assert (error.status, error.code, error.request_id) == (status, code, "r")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error":3}', b'{"error":{"code":7,"message":null}}', b"\xff"])
def test_odd_error_bodies(body: bytes) -> None:
    error = error_from_reply(503, {"Retry-After": "2"}, body)
    assert (error.code, error.retry_after_s) == (None, 2.0)


def test_the_finer_retry_after_wins() -> None:
    body = b'{"error":{"code":"queue_full","retry_after_s":0.25}}'
    assert error_from_reply(429, {"Retry-After": "1"}, body).retry_after_s == 0.25
    body = b'{"error":{"retry_after_s":1%b}}' % (b"0" * 400)
    assert error_from_reply(429, {}, body).retry_after_s == 1e9


def test_items_are_renumbered_for_the_caller() -> None:
    error = AssayError("pairs.3.response is empty", field="pairs.3.response")
    shift_items(error, 64)
    assert (error.field, error.message) == ("pairs.67.response", "pairs.67.response is empty")
    other = AssayError("m", field="scale")
    shift_items(other, 64)
    assert other.field == "scale"


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_errors_tell_their_facts_and_survive_pickling(name: str) -> None:
    error = getattr(errors, name)("no luck", status=503, code="c", request_id="r", attempts=2, elapsed_s=1.5)
    assert str(error) == "no luck [status 503, code c, request r, 2 attempts, 1.50 s]"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and copy.retry_after_s is None


def test_builtin_kin() -> None:
    assert issubclass(errors.DeadlineExceededError, TimeoutError)
    assert issubclass(errors.ConnectionFailedError, ConnectionError)
    assert issubclass(errors.OverloadedError, errors.UnavailableError)
