"""The one error of the data package."""


class DataError(ValueError):
    """Preference data that cannot be used as it is.

    `reason` says what was wrong and what to do; `file` and `line` say where, when that is known. `line`
    counts from 1: the line of a text file, or the row of a JSON list, a Parquet file or a Hugging Face data
    set.
    """

    def __init__(self, reason: str, *, file: str | None = None, line: int | None = None) -> None:
        # A reason quotes the data, and half a surrogate pair could not be written down.
        reason = reason.encode("utf-8", "backslashreplace").decode()
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason = reason
        self.file = file
        self.line = line
