"""Rows of files: JSON lines, JSON lists, CSV, Parquet and Hugging Face data sets, one dictionary a row."""

import ast
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast
from urllib.parse import parse_qsl

from training.data.errors import DataError
from training.data.readers.folder import KINDS_IN_WORDS, files_of, kind_of
from training.error_text import first_line

HUGGING_FACE = "hf:"
_INSTALL = "pip install 'assay[train]'"

# What the cells of these CSV columns hold; every other cell is text.
_NUMBER_CELLS = frozenset({"votes_a", "votes_b", "ties", "margin", "weight"})
_JSON_CELLS = frozenset({"responses", "judgements", "ranks", "scores", "qualities", "votes"})
_MESSAGE_CELLS = frozenset({"prompt", "chosen", "rejected"})


@dataclass(frozen=True)
class RawRow:
    """A row as it stands in its source: its columns, or why it could not be read; which of them were renamed."""

    file: str
    line: int
    columns: dict[str, Any] | DataError
    renamed: frozenset[str] = frozenset()


def raw_rows(path_or_name: str | Path, renamed: Mapping[str, str] = MappingProxyType({})) -> Iterator[RawRow]:
    """All rows of a file, of the files at the top of a folder, or of `hf:NAME[:SPLIT]`.

    Blank lines are no rows. Columns that the source calls otherwise get the names by which `renamed` has theirs; a
    column that had such a name before is left out. Raises `DataError` where the source as a whole cannot be read.
    """
    name = str(path_or_name)
    names: Names = {}
    for ours, theirs in renamed.items():
        names.setdefault(theirs, []).append(ours)
    if name.startswith(HUGGING_FACE):
        rows = _hugging_face(name)
    else:
        path = Path(path_or_name)
        if not path.exists():
            raise DataError("no such file or folder", file=name)
        files = files_of(path) if path.is_dir() else [path]
        rows = (row for file in files for row in _file_rows(file, names))
    for row in rows:
        if names and isinstance(row.columns, dict):
            row = RawRow(row.file, row.line, _by_other_names(row.columns, names), frozenset(names) & row.columns.keys())
        yield row


Names = dict[str, list[str]]
"""What a column of a source is called here: mostly one name."""


def _by_other_names(columns: Mapping[str, Any], names: Names) -> dict[str, Any]:
    taken = _taken(columns, names)
    kept = {name: value for name, value in columns.items() if name not in names and name not in taken}
    return kept | {ours: columns[theirs] for theirs in names if theirs in columns for ours in names[theirs]}


def _taken(columns: Iterable[str], names: Names) -> set[str]:
    """Names that other columns get."""
    return {ours for column in columns for ours in names.get(column, ())}


def _file_rows(path: Path, names: Names) -> Iterator[RawRow]:
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"unknown kind of file; known are {KINDS_IN_WORDS}", file=str(path))
    if kind == ".parquet":
        yield from _parquet(path)
        return
    try:
        with _opened(path) as stream:
            if kind == ".csv":  # whose cells are read as their columns demand
                yield from _csv(stream, str(path), names)
            else:
                yield from {".jsonl": _json_lines, ".json": _json_list}[kind](stream, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", file=str(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        yield cast(IO[bytes], stream)


def _json_lines(stream: IO[bytes], file: str) -> Iterator[RawRow]:
    for line, raw in enumerate(stream, start=1):
        if raw.strip():
            yield RawRow(file, line, _object(_decoded_json(raw)))


def _json_list(stream: IO[bytes], file: str) -> Iterator[RawRow]:
    rows = _decoded_json(stream.read())
    if isinstance(rows, DataError):
        raise DataError(rows.reason, file=file)
    if not isinstance(rows, list):
        raise DataError(f"must be a JSON list of rows, not {type(rows).__name__}", file=file)
    for number, row in enumerate(rows, start=1):
        yield RawRow(file, number, _object(row))


def _decoded_json(raw: bytes | str) -> Any:
    """The JSON value, or the `DataError` that says why there is none."""
    try:
        return json.loads(raw if isinstance(raw, str) else raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return DataError(f"not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return DataError(f"invalid JSON: {error.msg} (line {error.lineno}, column {error.colno} of the value)")
    except ValueError:  # the interpreter's limit on the digits of an integer
        return DataError("invalid JSON: an integer of thousands of digits")
    except RecursionError:
        return DataError("invalid JSON: nested too deeply")


def _object(value: Any) -> dict[str, Any] | DataError:
    if isinstance(value, dict | DataError):
        return value
    return DataError(f"a row must be a JSON object, not {type(value).__name__}")


def _csv(stream: IO[bytes], file: str, names: Names) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)  # The default refuses texts above 128 KiB.
    rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = next(rows, [])
        if not header or len(set(header)) != len(header):
            raise DataError("the first line must name the columns, each once", file=file, line=1)
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if rows.line_num > line:
                    # Where the rows between begin and end is not known, so they cannot be skipped one by one.
                    raise DataError(
                        f"invalid CSV: {error}: a quote that opens in this row is not closed rightly up to line "
                        f"{rows.line_num}, and the rows between cannot be told apart; mend the quote",
                        file=file,
                        line=line,
                    ) from error
                yield RawRow(file, line, DataError(f"invalid CSV: {error}"))
                continue
            if len(cells) not in (0, len(header)):
                reason = f"{len(cells)} cells for {len(header)} columns"
                if len(header) == 1 and (sign := next((sign for sign in ";\t|" if sign in header[0]), None)):
                    reason += f"; columns are told apart by commas, and the first line looks as if by {sign!r}"
                yield from _lines_of_a_bad_row(file, line, rows.line_num, reason)
            elif cells:
                yield RawRow(file, line, _csv_columns(header, cells, names))
    except UnicodeDecodeError as error:
        where = f"at or after line {rows.line_num + 1}"
        raise DataError(f"not UTF-8: {error.reason} ({where}); save the file as UTF-8", file=file) from error


def _lines_of_a_bad_row(file: str, first: int, last: int, reason: str) -> Iterator[RawRow]:
    """Every line of it: a stray quote makes one row of many, and each that is lost must be counted."""
    where = "" if first == last else f", in a row that a quote stretches from line {first} to line {last}"
    for line in range(first, last + 1):
        yield RawRow(file, line, DataError(reason + where))


def _csv_columns(header: list[str], cells: list[str], names: Names) -> dict[str, Any] | DataError:
    columns: dict[str, Any] = {}
    taken = _taken(header, names)
    for name, cell in zip(header, cells, strict=True):
        if name in taken and name not in names:
            continue
        value = _cell(names.get(name, [name])[0], cell)
        if isinstance(value, DataError):
            return DataError(f"column {name!r}: {value.reason}")
        columns[name] = value
    return columns


def _cell(column: str, cell: str) -> Any:
    """A number, a JSON value or a text, as the column demands; messages are told by their form."""
    if column in _NUMBER_CELLS:
        try:
            return float(cell) if cell.strip() else None
        except ValueError:
            return DataError(f"must be a number, not {cell[:40]!r}")
    if column in _JSON_CELLS:
        return _decoded_json(cell) if cell.strip() else None
    if column in _MESSAGE_CELLS and cell.lstrip().startswith("[{"):
        value = _decoded_json(cell)
        if isinstance(value, list) and all(isinstance(turn, dict) and "role" in turn for turn in value):
            return value
        if _is_python(cell):
            return DataError("is a list of messages in the spelling of Python; write such cells as JSON")
    return cell


def _is_python(cell: str) -> bool:
    """Whether a cell has messages as `str` writes them, and as pandas puts lists into a CSV."""
    try:
        value = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(value, list) and all(
        isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value
    )


def _parquet(path: Path) -> Iterator[RawRow]:
    parquet = _library("pyarrow.parquet", "Parquet files")
    arrow = _library("pyarrow", "Parquet files")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"more than one column is named {twice[0]!r}", file=str(path))
            batches = (_rows_of(batch) for batch in file.iter_batches(batch_size=1024))
            yield from _numbered(str(path), (row for batch in batches for row in batch))
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet: {error}", file=str(path)) from error


def _rows_of(batch: Any) -> list[dict[str, Any] | DataError]:
    """Rows as values of Python; of a batch that holds some which Python cannot have, one by one."""
    try:
        rows: list[dict[str, Any] | DataError] = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = [_row_of(batch.slice(place, 1)) for place in range(batch.num_rows)]
    return rows


def _row_of(batch: Any) -> dict[str, Any] | DataError:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (row[name],) = column.to_pylist()
        except (ValueError, OverflowError) as error:
            if not _library("pyarrow.types", "Parquet files").is_temporal(column.type):
                return DataError(f"column {name!r}: {first_line(error)}")
            row[name] = None  # a time beyond Python's, which no format reads
    return row


def _hugging_face(name: str) -> Iterator[RawRow]:
    location, _, query = name.removeprefix(HUGGING_FACE).partition("?")
    repository, _, part = location.partition(":")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not repository or (query and not options) or set(options) - {"name", "data_dir", "revision"}:
        raise DataError(
            "a Hugging Face data set is given as hf:NAME or hf:NAME:SPLIT, and which of its configurations, folders or "
            "revisions behind a question mark, as in hf:NAME:SPLIT?name=CONFIGURATION&data_dir=FOLDER&revision=COMMIT",
            file=name,
        )
    library = _library("datasets", "Hugging Face data sets")
    try:
        loaded = library.load_dataset(repository, split=part or None, **options)
    except Exception as error:  # the library hands on whatever the set's files and their readers raise
        cause = "" if error.__cause__ is None else f" ({first_line(error.__cause__)})"
        raise DataError(f"cannot be loaded: {first_line(error)}{cause}", file=name) from error
    if not part:
        splits = sorted(loaded)
        if len(splits) != 1:
            raise DataError(
                f"has the splits {', '.join(splits)}; name one, as in {HUGGING_FACE}{repository}:{splits[0]}", file=name
            )
        loaded = loaded[splits[0]]
    yield from _numbered(name, loaded)


def _numbered(file: str, rows: Iterable[dict[str, Any] | DataError]) -> Iterator[RawRow]:
    for number, row in enumerate(rows, start=1):
        yield RawRow(file, number, _object(row))


def _library(module: str, purpose: str) -> Any:
    """A library of the training extra, imported where it is first needed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} need the library {module.split('.')[0]}: {_INSTALL}") from error
