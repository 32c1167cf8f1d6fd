"""The expected choice among n, against drawing them all."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pocket import pocket_formatter
from training.data import Judgement, PreferenceRecord
from training.encoding import encode_records
from training.evaluation.best_of_n import best_of_n, expected

values = st.lists(st.tuples(st.floats(0, 1), st.integers(-3, 3)), min_size=1, max_size=6)


def by_enumeration(gold: Sequence[float], score: Sequence[float], n: int) -> float:
    means = []
    for drawn in itertools.combinations(range(len(gold)), n):
        best = max(score[place] for place in drawn)
        means.append(np.mean([gold[place] for place in drawn if score[place] == best]))
    return float(np.mean(means))


@given(values, st.integers(1, 6))
def test_the_formula_is_the_mean_over_all_draws(rows: list[tuple[float, int]], n: int) -> None:
    n = min(n, len(rows))
    gold, score = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    assert expected(gold, score, n) == pytest.approx(by_enumeration(gold.tolist(), score.tolist(), n))


def prompt(name: str, worth: list[int]) -> PreferenceRecord:
    pairs = itertools.combinations(range(len(worth)), 2)
    return PreferenceRecord(
        id=name, prompt=name, responses=["x" * (10 - w) for w in worth], source="s",
        judgements=[
            Judgement(i=i, j=j, i_wins=float(worth[i] > worth[j]), j_wins=float(worth[i] < worth[j])) for i, j in pairs
        ],
    )  # fmt: skip


def test_a_model_that_agrees_with_people_chooses_as_they_do() -> None:
    records = [prompt(str(number), [3, 0, 1, 2]) for number in range(3)]
    examples = encode_records(records, pocket_formatter(), progress=False)
    curve = best_of_n(examples, [np.array([3.0, 0.0, 1.0, 2.0])] * 3)
    assert curve is not None
    assert (curve.prompts, [choice.n for choice in curve.choices]) == (3, [1, 2, 4])
    first, second, last = curve.choices
    assert (first.model.value, first.best, first.kl) == (pytest.approx(0.5), pytest.approx(0.5), 0.0)
    assert 0.5 < second.model.value < last.model.value == last.best == 1.0
    assert last.model.clusters == 3
    assert last.length == 0.0  # here the longest is the worst
    assert last.kl == pytest.approx(np.log(4) - 3 / 4)


def test_the_curve_ends_where_half_of_the_prompts_do() -> None:
    records = [prompt("a", [0, 1, 2]), prompt("b", [0, 1, 2, 3, 4]), prompt("c", [0, 1, 2, 3, 4]), prompt("d", [0, 1])]
    examples = encode_records(records, pocket_formatter(), progress=False)
    curve = best_of_n(examples, [np.arange(float(len(record.responses))) for record in records])
    assert curve is not None
    assert (curve.prompts, [choice.n for choice in curve.choices]) == (2, [1, 2, 5])


def test_pairs_alone_have_no_curve() -> None:
    examples = encode_records([prompt("a", [0, 1])], pocket_formatter(), progress=False)
    assert best_of_n(examples, [np.array([0.0, 1.0])]) is None


def test_prompts_whose_responses_were_not_all_compared_are_left_out() -> None:
    """Else the share that a response wins would depend on whom it met."""
    whole = prompt("a", [0, 1, 2, 3])
    some = whole.model_copy(update={"judgements": [whole.judgements[0], whole.judgements[-1]]})
    examples = encode_records([some], pocket_formatter(), progress=False)
    assert best_of_n(examples, [np.arange(4.0)]) is None
    aspects = [judgement.model_copy(update={"aspect": "helpful"}) for judgement in whole.judgements]
    examples = encode_records([whole.model_copy(update={"judgements": aspects})], pocket_formatter(), progress=False)
    assert best_of_n(examples, [np.arange(4.0)]) is None


def test_all_votes_on_a_pair_count() -> None:
    """Judgements that differ in margin stand side by side: 9 votes are not outdone by the one that comes last."""
    record = prompt("a", [2, 1, 0])
    first = record.judgements[0].model_copy(update={"i_wins": 9.0, "margin": 1.0})
    last = record.judgements[0].model_copy(update={"i_wins": 0.0, "j_wins": 1.0, "margin": -2.0})
    several = record.model_copy(update={"judgements": [first, *record.judgements[1:], last]})
    curve = best_of_n(encode_records([several], pocket_formatter(), progress=False), [np.array([2.0, 1.0, 0.0])])
    assert curve is not None
    assert curve.choices[-1].model.value == curve.choices[-1].best == pytest.approx((0.9 + 1) / 2)
