"""From a refusal to a typed error: the one place that reads statuses and error bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from assay_client.errors import (
    AssayError,
    BadReplyError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelMismatchError,
    NonFiniteScoreError,
    OverloadedError,
    ServerError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from assay_client.retry import parse_retry_after

_BY_CODE: dict[str, type[AssayError]] = {
    "model_mismatch": ModelMismatchError,
    "too_many_tokens": TooLargeError,
    "nonfinite_score": NonFiniteScoreError,
    "deadline_exceeded": DeadlineExceededError,
}
_BY_STATUS: dict[int, type[AssayError]] = {
    401: UnauthorizedError,
    403: UnauthorizedError,
    408: UnavailableError,
    413: TooLargeError,
    429: OverloadedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}
_LONG_S = 1e9  # As good as for ever, and a float.
_ITEM = re.compile(r"(pairs|responses|comparisons|scores|details)\.(\d+)")


def error_from_reply(status: int, headers: Mapping[str, str], body: bytes) -> AssayError:
    """Return the error that a reply other than 200 stands for; proxies' replies without our body too."""
    document = _error_document(body)
    code, field = _string(document, "code"), _string(document, "field")
    message = _string(document, "message") or f"the server answered {status}"
    if status < 400:
        message = f"the server answered {status} where 200 was expected; is base_url right?"
    elif status == 404:
        message += "; is base_url right?"
    return _class_of(status, code)(
        message,
        request_id=headers.get("X-Request-Id") or _string(document, "request_id"),
        status=status,
        code=code,
        field=field,
        retry_after_s=_retry_after(headers, document),
    )


def shift_items(error: AssayError, offset: int) -> None:
    """Renumber the item that `error` names from its place in a part to its place in the caller's list."""
    if error.field is None or offset == 0 or (match := _ITEM.match(error.field)) is None:
        return
    shifted = f"{match[1]}.{int(match[2]) + offset}{error.field[match.end() :]}"
    error.message = error.message.replace(error.field, shifted)
    error.field = shifted


def _class_of(status: int, code: str | None) -> type[AssayError]:
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status < 400:
        return BadReplyError
    return InvalidRequestError if status < 500 else ServerError


def _retry_after(headers: Mapping[str, str], document: dict[str, Any]) -> float | None:
    # The body's number is the finer one: the header holds whole seconds.
    seconds = document.get("retry_after_s")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
        return float(min(seconds, _LONG_S))
    return parse_retry_after(headers.get("Retry-After"))


def _error_document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def _string(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None
