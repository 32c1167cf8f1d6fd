"""From the caller's values to request bodies.

Each item is encoded once, so that sizes are exact and a split or repeated request costs a join of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from assay_client.errors import InvalidRequestError
from assay_client.types import Prompt, Scale, Truncate

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

TIMEOUT_BYTES = 40
"""Room kept in every body for the remaining time, which is written last."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a call; what is None or False is the server's default and is not sent."""

    scale: Scale | None = None
    truncate: Truncate | None = None
    allow_empty: bool = False
    model_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose list may be cut: a body is `head`, some of `items`, `tail` and the time left."""

    path: str
    list_name: str
    head: bytes
    items: tuple[bytes, ...]
    tail: bytes

    @property
    def fixed_bytes(self) -> int:
        """Bytes of a body without items, at most."""
        return len(self.head) + len(self.tail) + TIMEOUT_BYTES

    def body(self, span: range, timeout_ms: int) -> bytes:
        """Return the JSON body that holds the items of `span`."""
        items = b",".join(self.items[span.start : span.stop])
        return b'%b%b%b,"timeout_ms":%d}' % (self.head, items, self.tail, timeout_ms)


def score_pairs_request(pairs: Iterable[tuple[Prompt, str]], options: Options) -> Request:
    """Build a `/v1/score` request from (prompt, response) tuples; raises `InvalidRequestError`."""
    return _tuples_request("/v1/score", "pairs", ("prompt", "response"), pairs, options)


def compare_request(comparisons: Iterable[tuple[Prompt, str, str]], options: Options) -> Request:
    """Build a `/v1/compare` request from (prompt, response a, response b); raises `InvalidRequestError`."""
    names = ("prompt", "response_a", "response_b")
    return _tuples_request("/v1/compare", "comparisons", names, comparisons, options)


def responses_request(path: str, prompt: Prompt, responses: Iterable[str], options: Options) -> Request:
    """Build a request with one prompt and several responses; raises `InvalidRequestError`."""
    if isinstance(responses, str):
        raise InvalidRequestError("responses is one string; give a list of strings", field="responses")
    items = tuple(_text(response, f"responses.{i}") for i, response in enumerate(responses))
    head = b'{"prompt":%b,"responses":[' % _prompt(prompt, "prompt")
    return _request(path, "responses", head, items, options)


def _tuples_request(
    path: str, list_name: str, names: tuple[str, ...], rows: Iterable[Sequence[object]], options: Options
) -> Request:
    items: list[bytes] = []
    for i, row in enumerate(rows):
        # A mapping or a string of the right length would unpack too, into the wrong texts.
        if not isinstance(row, tuple | list) or len(row) != len(names):
            raise InvalidRequestError(
                f"{list_name}.{i} must be a tuple ({', '.join(names)}), not {type(row).__name__}",
                field=f"{list_name}.{i}",
            )
        prompt, *texts = row
        members = [b'"prompt":' + _prompt(prompt, f"{list_name}.{i}.prompt")]
        for name, text in zip(names[1:], texts, strict=True):
            members.append(b'"%b":%b' % (name.encode(), _text(text, f"{list_name}.{i}.{name}")))
        items.append(b"{" + b",".join(members) + b"}")
    return _request(path, list_name, b'{"%b":[' % list_name.encode(), tuple(items), options)


def _request(path: str, list_name: str, head: bytes, items: tuple[bytes, ...], options: Options) -> Request:
    if not items:
        raise InvalidRequestError(f"{list_name} is empty: there is nothing to score", field=list_name)
    tail = b"]"
    for name in ("scale", "truncate", "allow_empty", "model_digest"):
        value = getattr(options, name)
        if value is not None and value is not False:
            tail += b',"%b":%b' % (name.encode(), _json(value, name))
    return Request(path, list_name, head, items, tail)


def _prompt(value: object, field: str) -> bytes:
    if isinstance(value, str):
        return _json(value, field)
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray) or not value:
        raise InvalidRequestError(
            f"{field} must be a string or a list of messages, not {type(value).__name__}", field=field
        )
    messages: list[dict[str, object]] = []
    for i, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise InvalidRequestError(
                f'{field}.{i} must be a message {{"role": ..., "content": ...}}', field=f"{field}.{i}"
            )
        messages.append(dict(message))
    return _json(messages, field)


def _text(value: object, field: str) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{field} must be a string, not {type(value).__name__}", field=field)
    return _json(value, field)


def _json(value: object, field: str) -> bytes:
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{field} holds a lone surrogate (half a character), which is not valid Unicode text", field=field
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{field} cannot be written as JSON: {error}", field=field) from error
