"""Which held-out pairs go into a bundle."""

import numpy as np
import pytest

from service.bundle.reference import Reference
from service.bundle.text_format import EncodedItem
from training import reference
from training.data.record import Judgement, PreferenceRecord
from training.encoding import Example
from training.reference import select_reference


def example(number: int, length: int = 5, ties: float = 0) -> Example:
    record = PreferenceRecord(
        id=f"r{number}",
        prompt="p",
        responses=["a", "b"],
        judgements=[Judgement(i=1, j=0, i_wins=3, j_wins=1, ties=ties)],
        source="test",
    )
    items = tuple(EncodedItem(np.full(length, number * 2 + side, dtype=np.int64), 0, 1) for side in (0, 1))
    return Example(record, items)


def scores(examples: list[Example]) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return [np.array([float(number), number + 0.5]) for number in range(len(examples))]


def select(examples: list[Example], seed: int = 0) -> Reference:
    selected = select_reference(examples, scores(examples), seed)
    assert selected is not None
    return selected


def test_a_pair_carries_ids_votes_and_scores_of_its_own_items() -> None:
    examples = [example(number) for number in range(4)]
    for pair in select(examples).pairs:
        number = pair.second[0] // 2
        assert pair.first == (number * 2 + 1,) * 5
        assert pair.second == (number * 2,) * 5
        assert pair.preference == 0.75
        assert pair.scores == (number + 0.5, float(number))


def test_each_prompt_once_in_an_order_of_the_seed() -> None:
    examples = [example(number) for number in range(30)]
    one, again, other = select(examples), select(examples), select(examples, seed=1)
    assert one == again != other
    assert len({pair.first for pair in one.pairs}) == len(one.pairs) == 30


def test_it_stops_at_pairs_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [example(number) for number in range(30)]
    monkeypatch.setattr(reference, "MOST_TOKENS", 45)
    assert len(select(examples).pairs) == 30  # as many as a precision can be judged by come first
    monkeypatch.setattr(reference, "LEAST_PAIRS", 2)
    assert len(select(examples).pairs) == 4
    monkeypatch.setattr(reference, "MOST_TOKENS", 3)
    monkeypatch.setattr(reference, "LEAST_PAIRS", 1)
    assert len(select(examples).pairs) == 1
    monkeypatch.setattr(reference, "MOST_TOKENS", 10**6)
    monkeypatch.setattr(reference, "MOST_PAIRS", 7)
    assert len(select(examples).pairs) == 7


def test_ties_are_half() -> None:
    assert select([example(0, ties=4)]).pairs[0].preference == 5 / 8


def test_of_nothing_there_is_no_reference() -> None:
    assert select_reference([], []) is None
