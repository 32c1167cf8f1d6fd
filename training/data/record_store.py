"""Records on disk, read when they are asked for: training data larger than memory."""

import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from training.data.lazy_sequence import LazySequence
from training.data.record import PreferenceRecord

SHARD_RECORDS, SHARD_BYTES = 20_000, 32 * 2**20
"""The most records, and bytes of their JSON, of one file: what is in memory at a time while it is written."""


class Shards:
    """Arrow files of one record batch each, mapped into memory, as one run of rows.

    Raises:
        ValueError: a file that is no such file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._batches = [_mapped(file, at_random=True) for file in files]
        self._stops = list(accumulate(self.sizes))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    @property
    def sizes(self) -> list[int]:
        """Rows of each file."""
        return [batch.num_rows for batch in self._batches]

    def each(self) -> Iterator[Any]:
        """The batch of each file, mapped anew: what a whole pass has read does not stay in the resident set."""
        return map(_mapped, self._files)

    def batch(self, number: int) -> Any:
        """The batch of one file, mapped anew."""
        return _mapped(self._files[number])

    def place(self, number: int) -> tuple[Any, int]:
        """The batch that holds a row, and which of its rows it is; `number` is within the length."""
        shard = bisect_right(self._stops, number)
        return self._batches[shard], number - (self._stops[shard - 1] if shard else 0)


class RecordStore(LazySequence[PreferenceRecord]):
    """The records of a folder that `write_store` made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = Shards(shard_files(folder))

    @property
    def shard_sizes(self) -> list[int]:
        """Records of each shard."""
        return self._shards.sizes

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[PreferenceRecord]:
        return (_record(line) for batch in self._shards.each() for line in batch.column("record"))

    def at(self, number: int) -> PreferenceRecord:
        """The record of a number within the length."""
        batch, row = self._shards.place(number)
        return _record(batch.column("record")[row])

    def lines(self, shard: int) -> list[str]:
        """The records of a shard as JSON."""
        return list(self._shards.batch(shard).column("record").to_pylist())


def write_store(folder: Path, records: Iterable[PreferenceRecord]) -> RecordStore:
    """Write records to an empty folder, a shard in memory at a time."""
    folder.mkdir(parents=True)
    for number, lines in enumerate(_shards(records)):
        write_shard(folder / shard_name(number), {"record": pa.array(lines, pa.large_string())})
    return RecordStore(folder)


def _shards(records: Iterable[PreferenceRecord]) -> Iterator[list[str]]:
    lines: list[str] = []
    size = 0
    for record in records:
        line = record.model_dump_json(exclude_none=True)
        taken = len(line.encode())
        if lines and (len(lines) >= SHARD_RECORDS or size + taken > SHARD_BYTES):
            yield lines
            lines, size = [], 0
        lines.append(line)
        size += taken
    if lines:
        yield lines


def shard_name(number: int) -> str:
    """Names sort as the numbers do."""
    return f"shard-{number:06}.arrow"


def shard_files(folder: Path) -> list[Path]:
    """In order."""
    return sorted(folder.glob("shard-*.arrow"))


def write_shard(path: Path, columns: dict[str, Any]) -> None:
    """One record batch, whole or not at all."""
    batch = pa.RecordBatch.from_pydict(columns)
    # Another process may be writing the same, on another machine with the same number.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        part.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _mapped(file: Path, at_random: bool = False) -> Any:
    """The record batch of a file.

    Args:
        at_random: rows are asked for here and there. The system then reads what is asked for, and not the megabytes
            around it, which would push out of memory what the next steps need.
    """
    try:
        with file.open("rb") as stream:
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if at_random and hasattr(mmap, "MADV_RANDOM"):
            mapping.madvise(mmap.MADV_RANDOM)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapping)))
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} batches, not one")
        return reader.get_batch(0)
    except (pa.ArrowException, ValueError) as error:  # an empty file cannot be mapped
        raise ValueError(f"{file} is damaged ({error}); remove its folder, and it is made again") from error


def _record(line: Any) -> PreferenceRecord:
    return PreferenceRecord.model_validate_json(line.as_py())
