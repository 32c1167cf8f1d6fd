"""What is held out is not learnt from, and recipes are chosen with nothing that figures come from."""

from collections.abc import Iterator

import pytest

from benchmarks.accuracy.folds import FILES, PROTOCOLS, Fold, ethics_repeated, seen_in_development, with_hard_labels
from training.data import Judgement, PreferenceRecord
from training.data.public_sets import data_folder

pytestmark = pytest.mark.skipif(
    not all((data_folder() / name).is_file() for name in FILES), reason=f"no public data at {data_folder()}"
)


def ids(fold: Fold) -> Iterator[set[str]]:
    for part in (fold.train, fold.validation, fold.test):
        yield {record.id for record in part}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parts_of_a_fold_share_nothing_that_belongs_together(protocol: str) -> None:
    for fold in PROTOCOLS[protocol](0)[:4]:
        train, validation, test = ids(fold)
        assert train and validation and test
        assert not (train & test or validation & test or train & validation)
        assert {record.id for record in fold.calibration} == validation
        keys = [{record.split_key for record in part} for part in (fold.train, fold.validation, fold.test)]
        if protocol != "ethics":  # two published files, families of the one being in the other; see `ethics_repeated`
            assert not (keys[0] & keys[2] or keys[1] & keys[2])
        assert not keys[0] & keys[1]


@pytest.mark.parametrize(
    ("protocol", "folds", "tested"), [("convarg", 32, 32), ("convarg_debates", 16, 32), ("responses", 10, 4162)]
)
def test_every_record_is_tested_once(protocol: str, folds: int, tested: int) -> None:
    every = PROTOCOLS[protocol](0)
    assert len(every) == folds
    names = [record.id for fold in every for record in fold.test]
    assert len(names) == len(set(names)) == tested


def test_a_debate_is_held_out_whole_where_that_is_said() -> None:
    for protocol, shared in (("convarg_debates", False), ("convarg", True)):
        fold = PROTOCOLS[protocol](0)[0]
        known = {record.category for record in (*fold.train, *fold.validation)}
        assert any(record.category in known for record in fold.test) is shared


def test_the_debates_that_recipes_are_chosen_with_are_half_of_all() -> None:
    seen = seen_in_development()
    assert len(seen) == 16
    tested = {record.id for fold in PROTOCOLS["convarg_development"](0) for record in fold.test}
    assert tested == seen


def test_recipes_are_chosen_without_what_is_tested() -> None:
    (ethics,) = PROTOCOLS["ethics"](0)
    assert not {r.id for r in ethics.test} & {r.id for part in ids_of("ethics_development") for r in part}
    tested = {record.id for record in PROTOCOLS["responses"](0)[0].test}
    assert not tested & {record.id for part in ids_of("responses_development") for record in part}
    assert 1500 < len(ethics_repeated()) < 3000


def ids_of(protocol: str) -> Iterator[list[PreferenceRecord]]:
    for fold in PROTOCOLS[protocol](0):
        for part in (fold.train, fold.validation, fold.test):
            yield list(part)


def test_the_seed_draws_what_chooses_the_weights() -> None:
    one, same, other = (PROTOCOLS["convarg"](seed)[3] for seed in (0, 0, 1))
    assert one == same
    assert {r.id for r in one.validation} != {r.id for r in other.validation}
    assert one.test == other.test


def test_hard_labels_know_neither_votes_nor_ties() -> None:
    judgements = [Judgement(i=0, j=1, i_wins=3, j_wins=2), Judgement(i=0, j=2, i_wins=1, j_wins=1, ties=3)]
    record = PreferenceRecord(id="a", prompt="p", responses=["a", "b", "c"], judgements=judgements, source="s")
    undecided = record.model_copy(update={"judgements": judgements[1:]})
    fold = with_hard_labels(Fold("f", [record, undecided], [record], [record], [record]))
    (left,) = fold.train
    assert [(j.i, j.j, j.i_wins, j.j_wins, j.ties) for j in left.judgements] == [(0, 1, 1, 0, 0)]
    assert fold.test == [record]
