"""Files and data sets to preference records, with every row accounted for."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Literal, get_args

from training.data.errors import DataError
from training.data.readers.formats import COLUMNS, ROW_READERS, Format, detect
from training.data.readers.rows import HUGGING_FACE, RawRow, raw_rows
from training.data.record import PreferenceRecord

logger = logging.getLogger("assay.training")


@dataclass(frozen=True)
class BadRow:
    """A row that gave no record, where it is and why; `line` counts as in `DataError`."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class ReadResult:
    """The records of a source and the file of each, the rows that gave none, and the format that was read."""

    records: list[PreferenceRecord]
    files: list[str]
    skipped: list[BadRow]
    format: Format


def read_records(
    path_or_name: str | Path,
    *,
    format: Format | Literal["auto"] = "auto",
    on_bad_row: Literal["error", "skip"] = "error",
    columns: Mapping[str, str] = MappingProxyType({}),
) -> ReadResult:
    """Read preference records from a file, a folder of files or `hf:NAME[:SPLIT]`.

    `format` says what the columns are; `auto` decides by the first row that shows it. `columns` says what the source
    calls a column, by the name that the format has for it. A row without an `id` is
    named after its file and line, and a row without a `source` after its file. Where one response was chosen
    it is response 0 (see `shuffle_sides`). Raises `DataError` for the first bad row, or, with
    `on_bad_row="skip"`, returns it among the skipped; always for a source that cannot be read, has no rows,
    or whose format cannot be told.
    """
    records: list[PreferenceRecord] = []
    files: list[str] = []
    places: dict[str, str] = {}
    reading = Reading(path_or_name, format, on_bad_row, columns)
    for row, record in reading:
        if record.id in places:
            reading.refuse(row, DataError(f"id {record.id!r} was already used at {places[record.id]}"))
            continue
        places[record.id] = f"{row.file}:{row.line}"
        records.append(record)
        files.append(row.file)
    return ReadResult(records, files, reading.skipped, reading.format)


class Reading:
    """A source as a stream of rows and what they say, one at a time; arguments and errors as of `read_records`.

    Ids are not compared. After the last row `skipped` holds the rows that gave no record.
    """

    def __init__(
        self,
        path_or_name: str | Path,
        format: Format | Literal["auto"] = "auto",
        on_bad_row: Literal["error", "skip"] = "error",
        columns: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if format != "auto" and format not in ROW_READERS:
            raise ValueError(f"format is {format!r}; it must be auto or one of {', '.join(get_args(Format))}")
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row is {on_bad_row!r}; it must be error or skip")
        if unknown := sorted(set(columns) - COLUMNS):
            raise ValueError(
                f"data.columns: no format has a column {unknown[0]!r}; the name of the format comes first, as in "
                f"chosen=THEIRS; such names are {', '.join(sorted(COLUMNS))}"
            )
        self.skipped: list[BadRow] = []
        self._name = path_or_name
        self._known: Format | None = None if format == "auto" else format
        self._on_bad_row = on_bad_row
        self._columns = columns
        self._decided: RawRow | None = None

    @property
    def format(self) -> Format:
        """What the rows turned out to be."""
        assert self._known is not None  # the first readable row decided
        return self._known

    def __iter__(self) -> Iterator[tuple[RawRow, PreferenceRecord]]:
        found = False
        implicit = 0
        renamed: set[str] = set()
        for row in raw_rows(self._name, self._columns):
            renamed |= row.renamed
            try:
                if self._known is None and not isinstance(row.columns, DataError):
                    self._known = detect(row.columns)
                    self._decided = row
                record = _record(row, self._known)
            except DataError as error:
                if self._decided is not None and self._decided.file != row.file:
                    error = DataError(f"{error.reason} (read as {self._known}, as {self._decided.file} shows)")
                if lost := self._lost(row):
                    error = DataError(f"{error.reason} (data.columns: the row has no column {lost!r})")
                self.refuse(row, error)
                continue
            found = True
            implicit += _begins_alike(row, self._known)
            yield row, record
        if self._known is None:
            count = len(self.skipped)
            lost = f"none of its {count} rows can be read; the first: {self.skipped[0].reason}" if count else "no rows"
            raise DataError(lost, file=str(self._name))
        if not found and not self.skipped:
            raise DataError("no rows", file=str(self._name))
        if implicit:
            logger.warning(
                "%s: %d rows have no prompt, and what both texts begin with was taken for it. Answers that begin alike "
                "make it longer, and bring one question into training and test: better give a column prompt",
                self._name,
                implicit,
            )
        # Where none is there, the source has the names of the format.
        if renamed and (never := [theirs for theirs in self._columns.values() if theirs not in renamed]):
            raise DataError(f"data.columns: no row has a column {never[0]!r}", file=str(self._name))

    def _lost(self, row: RawRow) -> str | None:
        """A column that a row does not have, though it was said what it is."""
        if isinstance(row.columns, DataError):
            return None
        return next((theirs for theirs in self._columns.values() if theirs not in row.renamed), None)

    def refuse(self, row: RawRow, error: DataError) -> None:
        """Count a row that gives no record, or stop at it."""
        if self._on_bad_row == "error":
            raise DataError(error.reason, file=row.file, line=row.line) from error
        self.skipped.append(BadRow(row.file, row.line, error.reason))


def _begins_alike(row: RawRow, known: Format | None) -> bool:
    """Whether the prompt is what two whole texts have in common."""
    columns = row.columns
    return (
        known == "trl"
        and isinstance(columns, dict)
        and columns.get("prompt") is None
        and isinstance(columns.get("chosen"), str)
    )


def _record(row: RawRow, known: Format | None) -> PreferenceRecord:
    if isinstance(row.columns, DataError):
        raise row.columns
    assert known is not None  # The first readable row decided.
    source = _source(row.file)
    return ROW_READERS[known](row.columns, f"{source}-{row.line}", source)


def _source(file: str) -> str:
    """The name of a data set: `hf:NAME...`, or the file's name without its kind."""
    if file.startswith(HUGGING_FACE):
        return file
    return PurePath(PurePath(file).name.removesuffix(".gz")).stem
