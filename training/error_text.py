"""What the errors of libraries come to in one line."""

from pydantic import ValidationError


def first_complaint(error: ValidationError) -> str:
    """The first thing that a validation found wrong, with its field: a damaged file has dozens, all of one cause."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def first_line(error: BaseException) -> str:
    """The kind of an error and its first line: libraries add pages of advice on themselves.

    A line that ends in a colon only announces the reason, so the next one comes along.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
