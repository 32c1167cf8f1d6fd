"""Typed access to the columns of a row; a column that is missing or of the wrong type is a `DataError`."""

import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from service.bundle.text_format import Message
from training.data.errors import DataError
from training.data.record import Choice, PreferenceRecord

Row = Mapping[str, Any]


def required(row: Row, column: str) -> Any:
    """The value of a column that must be there and not be null."""
    if row.get(column) is None:
        raise DataError(f"column {column!r} is missing" if column not in row else f"column {column!r} is null")
    return row[column]


def text(row: Row, column: str) -> str:
    """A required text."""
    value = required(row, column)
    if not isinstance(value, str):
        raise DataError(f"column {column!r} must be text, not {_kind(value)}")
    return value


def optional_text(row: Row, column: str) -> str | None:
    """A text, or None where the column is absent, null or empty."""
    return None if row.get(column) in (None, "") else text(row, column)


def number(row: Row, column: str) -> float:
    """A required finite number."""
    return _number(required(row, column), f"column {column!r}")


def votes(row: Row, column: str, default: float | None = None) -> float:
    """A count of votes, 0 or more; `default`, if given, stands for an absent or null column."""
    count = default if default is not None and row.get(column) is None else number(row, column)
    if count < 0:
        raise DataError(f"column {column!r} is {count:g}; votes are counts, 0 or more")
    return count


def numbers(row: Row, column: str, count: int) -> list[float]:
    """A required list of `count` finite numbers."""
    values = _list(row, column)
    if len(values) != count:
        raise DataError(f"column {column!r} has {len(values)} values for {count} responses")
    return [_number(value, f"{column}[{place}]") for place, value in enumerate(values)]


_CHOICES: Mapping[Any, Choice] = {"a": "i", "b": "j", "tie": "tie"}


def annotations(row: Row, column: str) -> dict[str, Any]:
    """A judgement's votes and who cast them, from a required list of [annotator, "a", "b" or "tie"]."""
    cast: list[dict[str, Any]] = []
    for place, vote in enumerate(_list(row, column)):
        match vote:
            case [str() | int() as annotator, "a" | "b" | "tie" as choice] if annotator != "":
                cast.append({"annotator": str(annotator), "choice": _CHOICES[choice]})
            case _:
                raise DataError(f'{column}[{place}] must be [annotator, "a", "b" or "tie"], not {_kind(vote)}')
    counts = Counter(annotation["choice"] for annotation in cast)
    return {"i_wins": counts["i"], "j_wins": counts["j"], "ties": counts["tie"], "annotations": cast}


def texts(row: Row, column: str) -> list[str]:
    """A required list of texts."""
    values = _list(row, column)
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{column}[{place}] must be text, not {_kind(value)}")
    return values


def prompt(row: Row, column: str = "prompt") -> str | list[Message]:
    """A required prompt or side of a comparison: a text (possibly empty) or a list of messages."""
    value = required(row, column)
    return value if isinstance(value, str) else messages(row, column)


def messages(row: Row, column: str) -> list[Message]:
    """A required list of messages; fields of a message that are null are left out, others are refused."""
    value = required(row, column)
    if not isinstance(value, list):
        raise DataError(f"column {column!r} must be text or a list of messages, not {_kind(value)}")
    turns: list[Message] = []
    for place, turn in enumerate(value):
        if not isinstance(turn, dict):
            raise DataError(f"{column}[{place}] must be a message with role and content, not {_kind(turn)}")
        try:
            turns.append(Message.model_validate({name: part for name, part in turn.items() if part is not None}))
        except ValidationError as error:
            raise DataError(f"{column}[{place}]: {explain(error)}") from error
    return turns


def record(**parts: Any) -> PreferenceRecord:
    """A checked record; what is wrong with it becomes the reason of a `DataError`."""
    try:
        return PreferenceRecord.model_validate(parts)
    except ValidationError as error:
        raise DataError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """All complaints of a failed validation on one line, each with its field."""
    complaints: list[str] = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        complaints.append(f"{place}: {message}" if place else message)
    return "; ".join(complaints)


def _list(row: Row, column: str) -> list[Any]:
    value = required(row, column)
    if not isinstance(value, list):
        raise DataError(f"column {column!r} must be a list, not {_kind(value)}")
    return value


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise DataError(f"{place} must be a number, not {_kind(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise DataError(f"{place} is an integer that no float can hold; a finite number is needed") from error
    if not math.isfinite(number):
        raise DataError(f"{place} is {number}; a finite number is needed")
    return number


def _kind(value: Any) -> str:
    return f"{type(value).__name__} ({str(value)[:40]!r})"
