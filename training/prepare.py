"""From the sources that a configuration names to clean, split preference records, with an account of every row."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.config import SAMPLE, SAMPLE_DATA, DataConfig
from training.data import (
    BadRow,
    DataError,
    PreferenceRecord,
    Splits,
    add_up_votes,
    check,
    check_leakage,
    deduplicate,
    merge_by_prompt,
    read_records,
    shuffle_sides,
    split,
)
from training.data.annotators import with_posteriors
from training.data.contamination import Passages, read_passages
from training.data.exclusion import Exclusion
from training.data.leakage import learnt_prompts, shared_with
from training.data.pairs import pairs_of


@dataclass(frozen=True)
class PreparedData:
    """Records ready for a run.

    Attributes:
        splits: train, validation, test.
        sha256: hash of all records, independent of their order and of the seed.
        account: what was read, skipped, dropped and found, as JSON values for the run's `data.json`.
    """

    splits: Splits
    sha256: str
    account: dict[str, Any]

    @property
    def records(self) -> int:
        """Records in all parts."""
        return len(self.splits.train) + len(self.splits.validation) + len(self.splits.test)


def prepare_data(config: DataConfig) -> PreparedData:
    """Read, clean, split, and shuffle the sides.

    Many formats put the chosen response first, so that a model or a calibration could learn the place; the
    responses of every record come in an order drawn from `config.seed` and the record's id.

    Raises:
        DataError: a source or row that cannot be read, a part of the split that is empty or all ties, or leakage
            where the configuration refuses it.
    """
    skipped: list[BadRow] = []
    read = [read_sources(sources, config, skipped) for sources in (config.train, config.validation, config.test)]
    records, validation, test = unique_ids([given for given, _ in read])
    (_, again), (_, validation_again), (_, test_again) = read
    # Before merging: all votes of a source may go into another's records.
    refuse_unknown("aspects", config.aspects, {record.source for record in [*records, *validation, *test]})
    refuse_unknown("mix", config.mix, {record.source for record in records})
    hygiene = check([*records, *validation, *test])  # before merging, which would hide what is there twice
    judgements = judgements_of(records)
    if config.deduplicate:
        # Without the rows of a file that was read before; equal rows of two files may be two people who agree.
        once = without_copies(records, again)
        records = once if config.merge_prompts else deduplicate(once).records
        validation = without_copies(validation, validation_again)
        test = without_copies(test, test_again)
    repeated = judgements - judgements_of(records)
    if config.merge_prompts:  # rows on one pair, in whatever source, are votes
        records, validation, test = (add_up_votes(merge_by_prompt(part)) for part in (records, validation, test))
    fractions = fractions_of(config)
    splits = split(records, fractions, config.seed)
    splits = Splits(splits.train, validation or splits.validation, test or splits.test)
    leakage = asdict(check_leakage([*splits.train, *splits.validation], splits.test))
    passages = read_passages(config.decontaminate) if config.decontaminate else None
    leaking, contaminated = in_held_out([*validation, *test], config), in_evaluation(passages, config)
    chosen_by = in_held_out(test, config, who="validation") if validation else leaking
    learnt = contaminated.without(leaking.without(splits.train))
    chosen = contaminated.without(chosen_by.without(splits.validation))
    splits = Splits(learnt, chosen, test or leaking.without(splits.test))  # what is named goes before what is split off
    for exclusion in (leaking, chosen_by, contaminated):
        exclusion.refuse()
    annotators: dict[str, Any] | None = None
    if config.annotators == "dawid-skene":  # of the training votes alone: what is held out stays as people voted
        try:
            believed, annotators = with_posteriors(splits.train)
        except ValueError as error:
            raise DataError(str(error)) from error
        splits = Splits(believed, splits.validation, splits.test)
    parts = {name: [shuffle_sides(record, config.seed) for record in part] for name, part in vars(splits).items()}
    refuse_empty(Splits(**parts), len(records), fractions, leaking.dropped + contaminated.dropped)
    return PreparedData(
        splits=Splits(**parts),
        sha256=with_evaluation(hash_parts(records, validation, test), passages),
        account={
            "sources": {"train": config.train, "validation": config.validation, "test": config.test},
            "rows": {"read": hygiene.records, "skipped": len(skipped)},
            "skipped_rows": [asdict(row) for row in skipped],
            "parts": {name: size_of(part) for name, part in parts.items()},
            "repeated_judgements_removed": repeated,
            "leaking_prompts_dropped": sum(each.dropped for each in {leaking, chosen_by}),
            "hygiene": asdict(hygiene),
            "leakage": leakage,
            "learnt_prompts": learnt_prompts(parts["train"], parts["test"]) if config.test else 0,
            "contaminated": None if passages is None else asdict(contaminated.found),
            "annotators": annotators,
        },
    )


def fractions_of(config: DataConfig) -> tuple[float, float, float]:
    """Shares of the prompts for training, validation and test."""
    validation = 0.0 if config.validation else config.validation_fraction
    test = 0.0 if config.test else config.test_fraction
    return max(0.0, round(1 - test - validation, 12)), validation, test  # of two that add up to 1 nothing is left


def refuse_empty(splits: Splits, prompts: int, fractions: tuple[float, float, float], dropped: int = 0) -> None:
    """Refuse a part that teaches or tells nothing.

    Args:
        splits: the parts.
        prompts: that they were made of.
        fractions: of these.
        dropped: training prompts that are held out, too, and were left out for that.

    Raises:
        DataError: one of the parts is empty or all ties.
    """
    for name, part in vars(splits).items():
        if name == "train" and not fractions[0]:  # a model that is imported as it is learns nothing
            continue
        if not part and name == "train" and dropped:
            raise DataError(
                f"no train prompts: {dropped} of {prompts} are also in the validation or test data or in "
                "data.decontaminate, and were dropped (data.on_leakage); name other data for them"
            )
        if not part:
            raise DataError(
                f"no {name} prompts: {prompts} prompts in shares of {_shares(fractions)} for training, "
                f"validation and test leave it empty; {_of_one_dialogue(splits)}use more data, other fractions or "
                "another data.seed"
            )
        decided = apart = False
        for pair in pairs_of(part):  # records in a store are read one by one, and mostly the first will do
            decided = decided or pair.direction != 0
            if apart := pair.direction != 0 and pair.text_i != pair.text_j:
                break
        if decided and not apart:
            raise DataError(f"every {name} pair with a majority compares a text with itself: nothing to learn")
        if not decided:
            raise DataError(
                f"no {name} pair has a majority: all votes tie, so there is nothing to "
                f"{'learn' if name == 'train' else 'measure'} there; use more data, other fractions or another "
                "data.seed"
            )


def _of_one_dialogue(splits: Splits) -> str:
    """Whether most records are kept together, as words for the error."""
    keys = Counter(record.split_key for part in vars(splits).values() for record in part)
    most = max(keys.values(), default=0)
    if most < 2 or 2 * most < keys.total():
        return ""
    return (
        f"{most} of them are of one group, or open alike and are taken for one dialogue (name what belongs together in "
        "a column group); else "
    )


def unique_ids(parts: Sequence[Sequence[PreferenceRecord]]) -> list[list[PreferenceRecord]]:
    """The same parts with ids that no two records share: the second of a name gets `#2`, and so on.

    Rows without an id are named after their file, and two files may have one name.
    """
    taken = {record.id for part in parts for record in part}
    seen: Counter[str] = Counter()

    def named(record: PreferenceRecord) -> PreferenceRecord:
        seen[record.id] += 1
        if seen[record.id] == 1:
            return record
        while (name := f"{record.id}#{seen[record.id]}") in taken:
            seen[record.id] += 1
        taken.add(name)
        return record.model_copy(update={"id": name})

    return [[named(record) for record in part] for part in parts]


def read_sources(
    sources: Sequence[str], config: DataConfig, skipped: list[BadRow]
) -> tuple[list[PreferenceRecord], list[bool]]:
    """The records of the sources, and whether the file of each, wherever links lead, had been read before."""
    records: list[PreferenceRecord] = []
    again: list[bool] = []
    first: dict[str, tuple[int, str]] = {}
    for number, source in enumerate(sources):
        path: str | Path = SAMPLE_DATA if source == SAMPLE else source
        result = read_records(path, format=config.format, on_bad_row=config.on_bad_row, columns=config.columns)
        before = {
            file: first.setdefault(os.path.realpath(file), (number, file)) != (number, file)
            for file in dict.fromkeys(result.files)
        }
        records += with_aspects(result.records, config.aspects)
        again += [before[file] for file in result.files]
        skipped += result.skipped
    return records, again


def without_copies(records: Sequence[PreferenceRecord], again: Sequence[bool]) -> list[PreferenceRecord]:
    """The records whose file had not been read before, as `read_sources` tells."""
    return [record for record, copy in zip(records, again, strict=True) if not copy]


def with_aspects(records: Iterable[PreferenceRecord], aspects: Mapping[str, str]) -> Iterator[PreferenceRecord]:
    """The records with the aspect of their source in the judgements that name none."""
    for record in records:
        aspect = aspects.get(record.source)
        if aspect is None:
            yield record
            continue
        named = [judgement.model_copy(update={"aspect": judgement.aspect or aspect}) for judgement in record.judgements]
        yield record.model_copy(update={"judgements": named})


def refuse_unknown(setting: str, named: Iterable[str], sources: set[str]) -> None:
    """Refuse a setting that names a source that is not there.

    Raises:
        DataError: naming it and the sources.
    """
    if unknown := sorted(set(named) - sources):
        known = ", ".join(sorted(sources))
        raise DataError(f"data.{setting} names the source {unknown[0]!r}, and the sources for it are {known}")


def in_held_out(
    named: Sequence[PreferenceRecord], config: DataConfig, at_once: bool = False, who: str = "training"
) -> Exclusion:
    """What is not to be learnt since it is in named validation or test data; nothing where none are named."""
    where = "the validation or test data" if who == "training" else "the test data"
    return Exclusion(shared_with(named), f"{who} prompts are also in {where}", config.on_leakage, at_once)


def in_evaluation(passages: Passages | None, config: DataConfig, at_once: bool = False) -> Exclusion:
    """What is not to be learnt since it holds passages of an evaluation."""
    known = (lambda _: False) if passages is None else passages.shared_by
    return Exclusion(known, "training prompts share passages with data.decontaminate", config.on_leakage, at_once)


def _shares(fractions: Sequence[float]) -> str:
    return ", ".join(f"{fraction:g}" for fraction in fractions)


def size_of(records: Sequence[PreferenceRecord]) -> dict[str, int]:
    """Of a part, for the account."""
    return {
        "prompts": len(records),
        "responses": sum(len(record.responses) for record in records),
        "judgements": judgements_of(records),
    }


def judgements_of(records: Sequence[PreferenceRecord]) -> int:
    """How many they hold."""
    return sum(len(record.judgements) for record in records)


def with_evaluation(records: str, passages: Passages | None) -> str:
    """The hash of data from that of all records and that of the texts which some of them were left out for."""
    return records if passages is None else hashlib.sha256(f"{records} {passages.sha256}".encode()).hexdigest()


def hash_parts(records: Sequence[PreferenceRecord], *named: Sequence[PreferenceRecord]) -> str:
    """The hash of what parts are split off from; of what is named for a part, it also knows which."""
    if not any(named):
        return hash_records(records)
    return hashlib.sha256(" ".join(hash_records(part) for part in (records, *named)).encode()).hexdigest()


def hash_records(records: Sequence[PreferenceRecord]) -> str:
    """SHA-256 of the records, whatever their order."""
    digest = hashlib.sha256()
    for line in sorted(map(hashed_line, records)):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def hashed_line(record: PreferenceRecord) -> str:
    """What the hash of data knows of a record: all of it, and which rule divides a dialogue.

    Before there was one they were divided turn by turn: a run of then must not be measured on what is the test now.
    """
    line = record.model_dump_json(exclude_none=True)
    return line + record.opening_key if record.group is None and record.goes_on else line
