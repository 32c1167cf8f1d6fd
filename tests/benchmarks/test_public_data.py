"""What is held out, and what an accuracy is held against."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.length_rule import above_length_rule, breakdown, differences_to_length_rule
from benchmarks.public_data import FILES, convarg_splits, debate_splits, interval_notes, shared_debates
from tests.pocket import pocket_formatter
from training.data import Judgement, PreferenceRecord, Splits
from training.data.public_sets import data_folder
from training.encoding import Example, encode_records
from training.evaluation.evaluate import evaluate
from training.evaluation.metrics import Interval


@pytest.fixture
def folder() -> Path:
    if not all((data_folder() / name).is_file() for name in FILES):
        pytest.skip(f"no public data at {data_folder()}")
    return data_folder()


def sides(splits: Splits) -> list[list[str]]:
    return [sorted(record.id for record in part) for part in (splits.train, splits.validation, splits.test)]


def test_the_prescribed_split_shares_debates_and_the_other_does_not(folder: Path) -> None:
    prescribed, whole = convarg_splits(folder), debate_splits(folder)
    assert [len(part) for part in sides(prescribed)] == [21, 3, 8]
    assert [len(part) for part in sides(whole)] == [20, 4, 8]
    assert shared_debates(prescribed) > 0
    assert shared_debates(whole) == 0
    for splits in (prescribed, whole):
        assert len({side for part in sides(splits) for side in part}) == 32
    debates = [{record.category for record in part} for part in (whole.train, whole.validation, whole.test)]
    assert len(set.union(*debates)) == sum(map(len, debates)) == 16


def examples(count: int) -> list[Example]:
    """In each, the shorter one won."""
    records = [
        PreferenceRecord(
            id=str(number),
            prompt=f"p{number}",
            responses=["short", "a longer text"],
            judgements=[Judgement(i=0, j=1, i_wins=1, j_wins=0)],
            source="s",
        )
        for number in range(count)
    ]
    return encode_records(records, pocket_formatter(), progress=False)


def test_the_paired_difference_is_that_of_the_accuracies() -> None:
    given = examples(20)
    scores = [np.array([1.0, 0.0]) if number < 15 else np.array([0.0, 1.0]) for number in range(20)]
    differences = differences_to_length_rule(given, scores)
    evaluation = evaluate(given, scores, 1.0)
    assert differences.every.value == pytest.approx(evaluation.accuracy.value - evaluation.length_rule.value) == 0.75
    assert 0.5 < differences.every.low < 0.75 < differences.every.high < 1
    assert differences.matched is None
    (row,) = breakdown("s", evaluation, differences)
    assert row.name == "s, 20 pairs of 20 prompts"
    assert "length rule 0.0 %; paired difference +75.0 points" in row.figure


@pytest.mark.parametrize(("accuracy", "difference", "held"), [(0.6, 0.1, True), (0.4, 0.1, False), (0.6, 0.0, False)])
def test_both_intervals_must_be_above(accuracy: float, difference: float, held: bool) -> None:
    target = above_length_rule(
        "x", Interval(0.7, accuracy, 0.8), Interval(0.5, 0.4, 0.6), Interval(0.2, difference, 0.3)
    )
    assert target.held is held


def test_how_many_clusters_is_said_and_what_few_mean() -> None:
    many, few = (evaluate(examples(count), [np.array([1.0, 0.0])] * count, 1.0) for count in (24, 8))
    assert many.accuracy.clusters == 24
    (only,) = interval_notes(many, {"a": many})
    assert only.startswith("Clusters that the intervals were drawn over: all pairs 24; ")
    _, warning = interval_notes(many, {"a": many, "b": few})
    assert warning.startswith("An interval over fewer than about 20 clusters is too narrow: here b")
