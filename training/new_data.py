"""Preference data that a run does not know, prepared to test its model on."""

from dataclasses import asdict
from typing import Any

from training.config import DataConfig
from training.data import (
    BadRow,
    DataError,
    PreferenceRecord,
    add_up_votes,
    check,
    check_leakage,
    merge_by_prompt,
    shuffle_sides,
)
from training.data.leakage import learnt_prompts
from training.data.pairs import pairs_of
from training.learnt import Learnt
from training.prepare import judgements_of, read_sources, size_of, unique_ids, without_copies


def prepare_new_data(config: DataConfig, learnt: Learnt) -> tuple[list[PreferenceRecord], dict[str, Any]]:
    """The records of `config.test`, cleaned as a run's own, and an account of them as a run's `data.json`.

    Args:
        config: how they are read and merged; `train` names what the model has learnt from.
        learnt: what the model comes from, to tell what that shares with the test, if all of it is known.

    Raises:
        DataError: a source or row that cannot be read, or no pair with a majority.
    """
    skipped: list[BadRow] = []
    given, again = read_sources(config.test, config, skipped)
    (records,) = unique_ids([given])
    hygiene, judgements = check(records), judgements_of(records)
    if config.deduplicate:
        records = without_copies(records, again)
    repeated = judgements - judgements_of(records)
    if config.merge_prompts:
        records = add_up_votes(merge_by_prompt(records))
    if not any(pair.direction for pair in pairs_of(records)):
        raise DataError("no pair has a majority, so there is nothing to measure", file=", ".join(config.test))
    records = [shuffle_sides(record, config.seed) for record in records]
    known = learnt_prompts(learnt.trained, records, of_one_run=False)
    return records, {
        "sources": {"train": config.train, "validation": config.validation, "test": config.test},
        "rows": {"read": hygiene.records, "skipped": len(skipped)},
        "skipped_rows": [asdict(row) for row in skipped],
        "parts": {"test": size_of(records)},
        "repeated_judgements_removed": repeated,
        "leaking_prompts_dropped": 0,
        "hygiene": asdict(hygiene),
        "leakage": None if learnt.unknown else asdict(check_leakage([*learnt.trained, *learnt.chosen_by], records)),
        "learnt_prompts": None if (learnt.unknown or learnt.elsewhere) and not known else known,
        "contaminated": None,
        "annotators": None,
    }
