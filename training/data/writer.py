"""Preference records to JSON lines."""

from collections.abc import Iterable
from pathlib import Path

from training.data.record import PreferenceRecord


def write_records(path: Path, records: Iterable[PreferenceRecord]) -> None:
    """Write one record a line in UTF-8, leaving out what is not set; `read_records` reads it back."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            stream.write(record.model_dump_json(exclude_none=True) + "\n")
