"""The same preparation for data larger than memory: one record at a time, and what is learnt from goes to disk."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.config import SAMPLE, SAMPLE_DATA, DataConfig
from training.data import (
    BadRow,
    DataError,
    PreferenceRecord,
    Splits,
    add_up_votes,
    merge_by_prompt,
    read_records,
    shuffle_sides,
    write_records,
)
from training.data.contamination import read_passages
from training.data.hygiene import Finding, Repeats
from training.data.merge import merge_key
from training.data.readers import Reading
from training.data.readers.folder import files_of
from training.data.readers.rows import HUGGING_FACE
from training.data.record_store import RecordStore, write_store
from training.data.splits import part_of
from training.prepare import (
    PreparedData,
    fractions_of,
    hashed_line,
    in_evaluation,
    in_held_out,
    refuse_empty,
    refuse_unknown,
    size_of,
    with_aspects,
    with_evaluation,
)
from training.run_folder import read, write

logger = logging.getLogger("assay.training")

MANY_HELD_OUT = 20_000
"""Validation and test prompts are held in memory, and every evaluation scores them."""
_ACCOUNT = "account.json"
_MOST_SKIPPED = 1000


def prepare_stored(config: DataConfig, progress: bool = True) -> PreparedData:
    """Prepare into `config.store`, or find there what was prepared before from the same files and settings.

    Raises:
        DataError: as of `training.prepare.prepare_data`.
    """
    assert config.store is not None
    folder = config.store / f"records-{_identity(config)}"
    if not (folder / _ACCOUNT).is_file():
        config.store.mkdir(parents=True, exist_ok=True)
        # A folder of its own: another run may be preparing the same.
        part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=config.store))
        try:
            _Preparation(config, progress).write(part)
            if not (folder / _ACCOUNT).is_file():  # the other run was not first; what is there has lost its account
                shutil.rmtree(folder, ignore_errors=True)
            try:
                part.replace(folder)
            except OSError:
                if not (folder / _ACCOUNT).is_file():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    account: dict[str, Any] = read(folder / _ACCOUNT)
    refuse_unknown("aspects", config.aspects, {name for names in account["source_names"].values() for name in names})
    refuse_unknown("mix", config.mix, set(account["source_names"]["train"]))
    held_out = (read_records(folder / f"{name}.jsonl").records for name in ("validation", "test"))
    splits = Splits(RecordStore(folder / "train"), *held_out)
    if any(len(part) != account["parts"][name]["prompts"] for name, part in vars(splits).items()):
        raise DataError(f"{folder} has lost a part of its records; remove it, and it is made again")
    return PreparedData(splits, account["sha256"], account)


def _identity(config: DataConfig) -> str:
    """Of settings, files and the code that prepares; a file that was written again is another one."""
    settings = config.model_dump(mode="json", exclude={"store", "mix"})
    named = (*config.train, *config.validation, *config.test, *config.decontaminate)
    files = [file for source in named for file in _files(source)]
    known = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps([_code(), settings, known]).encode()).hexdigest()[:16]


@cache
def _code() -> str:
    """Hash of the modules that records depend on."""
    folder = Path(__file__).parent
    modules = [Path(__file__), folder / "prepare.py", *sorted((folder / "data").rglob("*.py"))]
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _files(source: str) -> list[Path]:
    if source.startswith(HUGGING_FACE):
        raise DataError(
            "data.store reads files, of which it can tell whether they changed: save it as Parquet", file=source
        )
    path = SAMPLE_DATA if source == SAMPLE else Path(source)
    if not path.exists():
        raise DataError("no such file or folder", file=source)
    return files_of(path) if path.is_dir() else [path]


class _Preparation:
    """One pass over the sources. Of a record that went by, hashes alone are kept in memory."""

    def __init__(self, config: DataConfig, progress: bool) -> None:
        self.config = config
        self.progress = progress
        self.skipped: list[BadRow] = []
        self.sources: dict[str, set[str]] = {name: set() for name in ("train", "validation", "test")}
        self.passages = read_passages(config.decontaminate) if config.decontaminate else None
        self.contaminated = in_evaluation(self.passages, config, at_once=True)
        self.leaking = in_held_out([], config)
        self.crossing = Finding(0)
        self.rows = self.repeated = self.dropped = 0
        self.held_out: tuple[list[PreferenceRecord], list[PreferenceRecord]] = ([], [])
        self._ids: set[int] = set()
        self._first: dict[str, tuple[int, str]] = {}
        self._part_of_prompt: dict[int, int] = {}
        self._digest = 0
        self._named = ""

    def write(self, folder: Path) -> None:
        """All parts and the account of them, which comes last."""
        named_parts = {"validation": self.config.validation, "test": self.config.test}
        validation, test = (list(self._records(sources, name)) for name, sources in named_parts.items())
        self.leaking = in_held_out([*validation, *test], self.config, at_once=True)
        train = write_store(folder / "train", self._train())
        chosen_by = in_held_out(test, self.config, at_once=True, who="validation")
        named = [
            [shuffle_sides(record, self.config.seed) for record in part]
            for part in (self.contaminated.without(chosen_by.without(validation)), test)
        ]
        fractions = fractions_of(self.config)
        splits = Splits(train, *(part or split_off for part, split_off in zip(named, self.held_out, strict=True)))
        self.dropped = self.leaking.dropped + chosen_by.dropped
        refuse_empty(splits, self.rows, fractions, self.leaking.dropped + self.contaminated.dropped)
        write_records(folder / "validation.jsonl", splits.validation)
        write_records(folder / "test.jsonl", splits.test)
        write(folder / _ACCOUNT, self._account(splits))

    def _train(self) -> Iterator[PreferenceRecord]:
        """What is learnt from; what is held out is put aside."""
        fractions = fractions_of(self.config)
        repeats = Repeats()
        for given in self._records(self.config.train):
            rows_apart = self.config.deduplicate and not self.config.merge_prompts
            record = repeats.without(given) if rows_apart else given
            if record is None:
                continue
            part = part_of(record.split_key, fractions, self.config.seed)
            if self.leaking.excludes(record) or (part < 2 and self.contaminated.excludes(record)):
                continue
            if self._crosses_parts(record, part):
                continue
            shuffled = shuffle_sides(record, self.config.seed)
            if part:
                self.held_out[part - 1].append(shuffled)
            else:
                yield shuffled
        self.repeated += repeats.removed

    def _crosses_parts(self, record: PreferenceRecord, part: int) -> bool:
        """Whether a record's prompt is in another part already, by another group or by none; such a one is dropped.

        Groups are divided, and one prompt may be in several: in memory those that share one count as one group, which
        takes all records at once.
        """
        if not record.has_prompt or self._part_of_prompt.setdefault(hash(record.loose_prompt_key), part) == part:
            return False
        self.crossing = self.crossing.plus(record.id)
        return True

    def _records(self, sources: Iterable[str], named: str = "") -> Iterator[PreferenceRecord]:
        """Records with ids of their own, neighbours of one prompt merged, and hashed."""
        self._named = named  # for the hash: what is named for a part, and not split off, is another thing
        self._first = {}  # a file that is in training and in the test is a leak, and no repetition
        bar = tqdm(desc="reading", unit=" rows", disable=not self.progress, leave=False)
        with bar:
            for number, source in enumerate(sources):
                rows = with_aspects(self._rows(number, source, bar), self.config.aspects)
                if not self.config.merge_prompts:
                    yield from map(self._noted, rows)
                    continue
                for _, members in groupby(
                    rows, key=lambda record: merge_key(record) if record.has_prompt else record.id
                ):
                    yield from map(self._noted, add_up_votes(merge_by_prompt(members)))

    def _rows(self, place: int, source: str, bar: Any) -> Iterator[PreferenceRecord]:
        path: str | Path = SAMPLE_DATA if source == SAMPLE else source
        reading = Reading(path, self.config.format, self.config.on_bad_row, self.config.columns)
        own = set() if self._ids else self._ids  # of the first source they are the same, and may be many
        for row, record in reading:
            bar.update()
            self.rows += 1
            # Equal rows of two files may be two people who agree; those of a file that is named twice are not.
            origin = place, row.file
            if self.config.deduplicate and self._first.setdefault(os.path.realpath(row.file), origin) != origin:
                self.repeated += len(record.judgements)
                continue
            if hash(record.id) in own:
                reading.refuse(row, DataError(f"id {record.id!r} was already used"))
                continue
            number, name = 1, record.id
            while hash(name) in self._ids:
                number, name = number + 1, f"{record.id}#{number + 1}"
            own.add(hash(record.id))
            self._ids.add(hash(name))
            yield record if name == record.id else record.model_copy(update={"id": name})
        self.skipped += reading.skipped

    def _noted(self, record: PreferenceRecord) -> PreferenceRecord:
        """A sum of hashes does not depend on the order, and needs no more memory with every record."""
        self.sources[self._named or "train"].add(record.source)
        digest = hashlib.sha256((self._named + hashed_line(record)).encode()).digest()
        self._digest = (self._digest + int.from_bytes(digest, "big")) % 2**256
        return record

    def _account(self, splits: Splits) -> dict[str, Any]:
        for name in ("validation", "test"):
            if (count := len(getattr(splits, name))) > MANY_HELD_OUT:
                logger.warning(
                    "%d %s prompts are held in memory and scored at every evaluation; data.%s-fraction can be smaller",
                    count,
                    name,
                    name,
                )
        return {
            "sha256": with_evaluation(f"{self._digest:064x}", self.passages),
            "sources": {"train": self.config.train, "validation": self.config.validation, "test": self.config.test},
            "rows": {"read": self.rows, "skipped": len(self.skipped)},
            "skipped_rows": [asdict(row) for row in self.skipped[:_MOST_SKIPPED]],
            "parts": {name: size_of(part) for name, part in vars(splits).items()},
            "repeated_judgements_removed": self.repeated,
            "leaking_prompts_dropped": self.dropped,
            "source_names": {part: sorted(names) for part, names in self.sources.items()},
            "hygiene": {"records_dropped_as_another_group_has_their_prompt_in_another_part": asdict(self.crossing)}
            if self.crossing.count
            else {},
            "leakage": {"training_prompts_in_what_is_held_out": asdict(self.leaking.found)}
            if self.config.validation or self.config.test
            else None,
            # What is learnt goes by, and is not there to be compared once more: if some is in the test, how much is not
            # known.
            "learnt_prompts": None if self.leaking.found.count > self.leaking.dropped else 0,
            "contaminated": None if self.passages is None else asdict(self.contaminated.found),
            "annotators": None,
        }
