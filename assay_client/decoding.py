"""From reply bodies to results, believing nothing: counts, types, ranges and finiteness are checked.

Whatever breaks the protocol raises `BadReplyError`; a score of NaN or infinity raises `NonFiniteScoreError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import inf, isfinite
from typing import Any

from assay_client.encoding import Options
from assay_client.errors import AssayError, BadReplyError, NonFiniteScoreError
from assay_client.types import (
    Comparison,
    Comparisons,
    Detail,
    Limits,
    ModelIdentity,
    ModelInfo,
    Ranking,
    Scores,
    Timing,
    Usage,
)


def decode_scores(body: bytes, count: int, options: Options) -> Scores:
    """Read a `/v1/score` reply to a request of `count` items."""
    reply = _document(body)
    scale = options.scale or "raw"
    if _get(reply, "scale", "") != scale:
        raise BadReplyError(f"asked for the scale {scale!r}, the reply has {reply['scale']!r}", field="scale")
    scores = _numbers(_list(reply, "scores", count), "scores")
    if scale == "probability":
        for i, score in enumerate(scores):
            _check_probability(score, f"scores.{i}")
    return Scores(
        scores=scores,
        details=_details(reply, count, options),
        model=_model(reply),
        scale=scale,
        usage=_usage(reply),
        timing=_timing(reply),
        uncertainty=_uncertainty(reply, count),
        heads=_heads(reply, count),
    )


def decode_comparisons(body: bytes, count: int, options: Options) -> Comparisons:
    """Read a `/v1/compare` reply to a request of `count` comparisons."""
    reply = _document(body)
    comparisons = tuple(
        _comparison(item, f"comparisons.{i}") for i, item in enumerate(_list(reply, "comparisons", count))
    )
    return Comparisons(comparisons, _details(reply, 2 * count, options), _model(reply), _usage(reply), _timing(reply))


def decode_ranking(body: bytes, count: int, options: Options) -> Ranking:
    """Read a `/v1/rank` reply to a request of `count` responses."""
    reply = _document(body)
    scores = _numbers(_list(reply, "scores", count), "scores")
    order = tuple(_integer(index, f"order.{i}") for i, index in enumerate(_list(reply, "order", count)))
    if sorted(order) != list(range(count)):
        raise BadReplyError(f"order is no permutation of 0 .. {count - 1}", field="order")
    ranked = [scores[index] for index in order]
    if ranked != sorted(ranked, reverse=True):
        raise BadReplyError("order and scores disagree", field="order")
    rows = []
    for i, row in enumerate(_list(reply, "win_probabilities", count)):
        name = f"win_probabilities.{i}"
        rows.append(_numbers(_list({name: row}, name, count), name))
        for probability in rows[-1]:
            _check_probability(probability, name)
    return Ranking(
        order,
        scores,
        tuple(rows),
        _details(reply, count, options),
        _model(reply),
        _usage(reply),
        _timing(reply),
    )


def decode_model(body: bytes) -> ModelInfo:
    """Read a `/v1/model` reply; only what the client relies on is checked."""
    reply = _document(body)
    limits = _get(reply, "limits", {})
    values = {
        name: _integer(limits[name], f"limits.{name}")
        for name in Limits.__dataclass_fields__
        if limits.get(name) is not None
    }
    for name in ("body_bytes", "items_per_request"):
        if name not in values:
            raise BadReplyError(f"limits.{name} is missing", field=f"limits.{name}")
    if zero := [name for name, value in values.items() if value == 0]:
        raise BadReplyError(f"limits.{zero[0]} is 0", field=f"limits.{zero[0]}")
    return ModelInfo(_model(reply), Limits(**values), reply)


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Put the parts of one call together, in order. They must be of the same model."""
    if any(part.heads.keys() != parts[0].heads.keys() for part in parts):
        raise BadReplyError("the replies to the parts of one call have different heads", field="heads")
    return Scores(
        scores=tuple(score for part in parts for score in part.scores),
        details=_joined_details(parts),
        model=parts[0].model,
        scale=parts[0].scale,
        usage=_joined_usage(parts),
        timing=_joined_timing(parts),
        uncertainty=None
        if parts[0].uncertainty is None
        else tuple(value for part in parts for value in part.uncertainty or ()),
        heads={name: tuple(score for part in parts for score in part.heads[name]) for name in parts[0].heads},
    )


def join_comparisons(parts: Sequence[Comparisons]) -> Comparisons:
    """Put the parts of one call together, in order. They must be of the same model."""
    return Comparisons(
        comparisons=tuple(comparison for part in parts for comparison in part.comparisons),
        details=_joined_details(parts),
        model=parts[0].model,
        usage=_joined_usage(parts),
        timing=_joined_timing(parts),
    )


def _joined_details(parts: Sequence[Scores | Comparisons]) -> tuple[Detail, ...]:
    return tuple(detail for part in parts for detail in part.details)


def _joined_usage(parts: Sequence[Scores | Comparisons]) -> Usage:
    return Usage(*(sum(getattr(part.usage, name) for part in parts) for name in Usage.__dataclass_fields__))


def _joined_timing(parts: Sequence[Scores | Comparisons]) -> Timing:
    return Timing(*(max(getattr(part.timing, name) for part in parts) for name in Timing.__dataclass_fields__))


def _uncertainty(reply: dict[str, Any], count: int) -> tuple[float, ...] | None:
    if "uncertainty" not in reply:
        return None
    values = _numbers(_list(reply, "uncertainty", count), "uncertainty")
    for i, value in enumerate(values):
        if value < 0:
            raise BadReplyError(f"uncertainty.{i} is {value}, and no deviation is below 0", field=f"uncertainty.{i}")
    return values


def _heads(reply: dict[str, Any], count: int) -> dict[str, tuple[float, ...]]:
    heads = _get(reply, "heads", {}) if "heads" in reply else {}
    return {name: _numbers(_list(heads, name, count), f"heads.{name}") for name in heads}


def _comparison(item: Any, field: str) -> Comparison:
    if not isinstance(item, dict):
        raise BadReplyError(f"{field} is {type(item).__name__}, not an object", field=field)
    preferred = item.get("preferred")
    if preferred not in ("a", "b", "tie"):
        raise BadReplyError(f'{field}.preferred is {preferred!r}, not "a", "b" or "tie"', field=field)
    names = ("probability", "margin", "score_a", "score_b")
    comparison = Comparison(preferred, *(_number(item.get(name), f"{field}.{name}") for name in names))
    _check_probability(comparison.probability, f"{field}.probability")
    contradicted = {"a": comparison.probability < 0.5, "b": comparison.probability > 0.5, "tie": False}
    if contradicted[preferred]:
        raise BadReplyError(
            f"{field} prefers {preferred!r} with the probability {comparison.probability} of a", field=field
        )
    return comparison


def _details(reply: dict[str, Any], count: int, options: Options) -> tuple[Detail, ...]:
    details: list[Detail] = []
    for i, item in enumerate(_list(reply, "details", count)):
        field = f"details.{i}"
        if not isinstance(item, dict) or not isinstance(item.get("truncated"), bool):
            raise BadReplyError(f"{field} lacks its fields", field=field)
        removed = _integer(item.get("tokens_removed"), f"{field}.tokens_removed")
        details.append(Detail(_integer(item.get("tokens"), f"{field}.tokens"), item["truncated"], removed))
        if options.truncate is None and (item["truncated"] or removed):
            raise BadReplyError(f"{field}: the input was truncated although nobody asked for it", field=field)
    return tuple(details)


def _usage(reply: dict[str, Any]) -> Usage:
    usage = _get(reply, "usage", {})
    return Usage(*(_integer(usage.get(name), f"usage.{name}") for name in Usage.__dataclass_fields__))


def _timing(reply: dict[str, Any]) -> Timing:
    timing = _get(reply, "timing", {})
    names = Timing.__dataclass_fields__
    return Timing(*(_number(timing.get(name), f"timing.{name}", nonfinite=BadReplyError) for name in names))


def _model(reply: dict[str, Any]) -> ModelIdentity:
    model = _get(reply, "model", {})
    name, digest = model.get("name"), model.get("digest")
    if not isinstance(name, str) or not isinstance(digest, str) or not digest:
        raise BadReplyError("the reply does not name its model", field="model")
    return ModelIdentity(name, digest)


def _document(body: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadReplyError(f"the reply is not JSON: {error}") from error
    if not isinstance(reply, dict):
        raise BadReplyError(f"the reply is {type(reply).__name__}, not an object")
    return reply


def _get(reply: dict[str, Any], name: str, like: Any) -> Any:
    value = reply.get(name)
    if not isinstance(value, type(like)):
        raise BadReplyError(f"{name} is {type(value).__name__}, not {type(like).__name__}", field=name)
    return value


def _list(reply: dict[str, Any], name: str, count: int) -> list[Any]:
    values: list[Any] = _get(reply, name, [])
    if len(values) != count:
        raise BadReplyError(f"{name} has {len(values)} entries where {count} belong", field=name)
    return values


def _numbers(values: Iterable[Any], name: str) -> tuple[float, ...]:
    return tuple(_number(value, f"{name}.{i}") for i, value in enumerate(values))


def _number(value: Any, name: str, *, nonfinite: type[AssayError] = NonFiniteScoreError) -> float:
    # A bool is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = "null" if value is None else type(value).__name__
        raise BadReplyError(f"{name} is {shown}, not a number", field=name)
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise nonfinite(f"{name} is {number}, not a finite number", field=name)
    return number


def _integer(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadReplyError(f"{name} is {value!r}, not a count", field=name)
    return value


def _check_probability(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:
        raise BadReplyError(f"{name} holds the probability {value}, outside 0 .. 1", field=name)
