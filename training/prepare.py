"""From the sources that a configuration names to clean, split preference records, with an account of every row."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.config import DataConfig
from training.data import BadRow, DataError, PreferenceRecord, Splits, check, check_leakage, deduplicate
from training.data import merge_by_prompt, read_records, split
from training.data.leakage import leaking


@dataclass(frozen=True)
class PreparedData:
    """Records ready for a run.

    Attributes:
        splits: train, validation, test.
        sha256: hash of all records, independent of their order.
        account: what was read, skipped, dropped and found, as JSON values for the run's `data.json`.
    """

    splits: Splits
    sha256: str
    account: dict[str, Any]

    @property
    def records(self) -> int:
        """Records in all parts."""
        return len(self.splits.train) + len(self.splits.validation) + len(self.splits.test)


def prepare_data(config: DataConfig, seed: int) -> PreparedData:
    """Read, clean and split.

    Raises:
        DataError: a source or row that cannot be read, a part of the split that is empty, or leakage where the
            configuration refuses it.
    """
    skipped: list[BadRow] = []
    records = _read(config.train, config, skipped)
    test = _read(config.test, config, skipped)
    hygiene = check(records)
    removed = 0
    if config.deduplicate:
        cleaned = deduplicate(records)
        records, removed = cleaned.records, cleaned.judgements_removed
    fractions = (config.validation_fraction, 0.0 if test else config.test_fraction)
    splits = split(records, (1 - sum(fractions), *fractions), seed)
    dropped = 0
    account: dict[str, Any] = {}
    if test:
        known = [*splits.train, *splits.validation]
        account["leakage"] = asdict(check_leakage(known, test))
        shared = {record.id for record in leaking(test, known, "prompt")}
        if shared and config.on_leakage == "error":
            raise DataError(f"{len(shared)} training prompts are also in the test data, such as record {min(shared)!r}")
        if config.on_leakage == "drop":
            dropped = len(shared)
            splits = Splits(_without(splits.train, shared), _without(splits.validation, shared), test)
        else:
            splits = Splits(splits.train, splits.validation, test)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    for name, part in parts.items():
        if not part:
            raise DataError(f"no {name} prompts: {len(records)} records are too few for fractions {fractions}")
    return PreparedData(
        splits=splits,
        sha256=_hash([*records, *test]),
        account={
            "sources": {"train": config.train, "test": config.test},
            "parts": {name: _size(part) for name, part in parts.items()},
            "skipped_rows": [asdict(row) for row in skipped],
            "repeated_judgements_removed": removed,
            "leaking_prompts_dropped": dropped,
            "hygiene": asdict(hygiene),
            **account,
        },
    )


def _read(sources: Sequence[str], config: DataConfig, skipped: list[BadRow]) -> list[PreferenceRecord]:
    records: list[PreferenceRecord] = []
    for source in sources:
        place = source if source.startswith("hf:") else Path(source)
        result = read_records(place, format=config.format, on_bad_row=config.on_bad_row)
        records += result.records
        skipped += result.skipped
    return merge_by_prompt(records) if config.merge_prompts else records


def _without(records: Sequence[PreferenceRecord], ids: set[str]) -> list[PreferenceRecord]:
    return [record for record in records if record.id not in ids]


def _size(records: Sequence[PreferenceRecord]) -> dict[str, int]:
    return {
        "prompts": len(records),
        "responses": sum(len(record.responses) for record in records),
        "judgements": sum(len(record.judgements) for record in records),
    }


def _hash(records: Sequence[PreferenceRecord]) -> str:
    digest = hashlib.sha256()
    for line in sorted(record.model_dump_json(exclude_none=True) for record in records):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
