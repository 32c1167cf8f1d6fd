"""The shape of a request's JSON, looked at before anything is built of it.

Parsing and validation take time for each value, not for each byte: a body of legal size may hold millions of fields
that nobody knows, and building an error for each takes seconds and gigabytes.
"""

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel

from service.api.errors import ApiError, unknown_field
from service.api.schemas import ChatMessage, Comparison, Pair, RankRequest

MAX_MESSAGES = 2**15
"""Chat messages of all prompts of one request together."""

_MARKS_OF_A_MESSAGE, _MARKS_OF_AN_ITEM, _MARKS_OF_THE_REST = 5, 8, 1000
_PIECE_BYTES = 2**18
"""So little that a call which holds the interpreter's lock is done in a few milliseconds."""


def refuse_too_many_values(body: bytes, max_items: int) -> None:
    """Refuse a body with more values than any request has, before they are built.

    Args:
        body: JSON, or what pretends to be; where it is not valid, parsing stops.
        max_items: of one request.

    Raises:
        ApiError: 413, naming the limits.
    """
    limit = _MARKS_OF_A_MESSAGE * MAX_MESSAGES + _MARKS_OF_AN_ITEM * max_items + _MARKS_OF_THE_REST
    marks = 0
    for text in _outside_of_strings(body):
        marks += sum(map(text.count, (b",", b":", b"[", b"{")))
        if marks > limit:
            raise ApiError(
                413, "too_many_items",
                f"the body holds more values than a request of {max_items} items and {MAX_MESSAGES} chat messages can "
                "have; send fewer of them at a time, and no fields that are not listed under /docs",
            )  # fmt: skip


def refuse_wrong_structure(content: dict[str, Any], schema: type[BaseModel], max_items: int) -> None:
    """Refuse unknown fields at every level, and lists that are too long, at the first of them.

    Args:
        content: the decoded body.
        schema: of the body.
        max_items: of one request.

    Raises:
        ApiError: 413 for too many items or messages, 422 for an unknown field.
    """
    _require_known(content, schema.model_fields, ())
    for name, texts_of_each in (("pairs", 1), ("responses", 1), ("comparisons", 2)):
        value = content.get(name)
        if isinstance(value, list) and (items := len(value) * texts_of_each) > max_items:
            advice = "send fewer" if issubclass(schema, RankRequest) else "split them"
            message = f"{items} items, more than the {max_items} of one request; {advice}"
            raise ApiError(413, "too_many_items", message, name)
    messages = _check_prompt(content, ())
    for name, row_schema in (("pairs", Pair), ("comparisons", Comparison)):
        rows = content.get(name)
        for place, row in enumerate(rows if isinstance(rows, list) else ()):
            if isinstance(row, dict):
                _require_known(row, row_schema.model_fields, (name, place))
                messages += _check_prompt(row, (name, place))
                if messages > MAX_MESSAGES:
                    message = f"more than the {MAX_MESSAGES} chat messages of one request; send fewer {name} at a time"
                    raise ApiError(413, "too_many_items", message, f"{name}.{place}.prompt")


def _check_prompt(parent: dict[str, Any], path: tuple[str | int, ...]) -> int:
    """Number of messages of a prompt, none of which has an unknown field."""
    prompt = parent.get("prompt")
    if not isinstance(prompt, list):
        return 0
    for place, message in enumerate(prompt):
        if isinstance(message, dict):
            _require_known(message, ChatMessage.model_fields, (*path, "prompt", place))
    return len(prompt)


def _require_known(given: dict[str, Any], known: Collection[str], path: tuple[str | int, ...]) -> None:
    for name in given:
        if name not in known:
            raise unknown_field((*path, name))


def _outside_of_strings(body: bytes) -> Iterator[bytes]:
    """What of a JSON text lies outside of its strings, piece by piece."""
    start, inside = 0, False
    while start < len(body):
        piece = body[start : start + _PIECE_BYTES]
        if b"\\" in piece:
            if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and start + len(piece) < len(body):
                piece = piece[:-1]  # half an escape
            start += len(piece)
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        else:
            start += len(piece)
        parts = piece.split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
