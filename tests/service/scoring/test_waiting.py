"""The waiting line loses nothing, doubles nothing, keeps the order and the bound, and counts right."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.bundle.layout import added_tokens, depth_first_order
from service.scoring.waiting import BatchItem, WaitingLine, Work

sequence_lists = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=12).map(lambda ids: np.array(ids, dtype=np.int64)),
    min_size=1,
    max_size=8,
)


def work_of(sequences, deadline=None, admitted=0.0):
    order = depth_first_order(sequences)
    return Work(list(sequences), order, added_tokens(sequences, order), admitted, deadline)


def cost(batch: list[BatchItem]) -> int:
    """Tokens of a batch when each request shares its own prefixes and nothing else."""
    total = 0
    for work in {id(item.work): item.work for item in batch}.values():
        mine = [work.sequences[item.place] for item in batch if item.work is work]
        total += sum(added_tokens(mine, range(len(mine))))
    return total


def take_all(line: WaitingLine, now=0.0) -> list[list[BatchItem]]:
    batches = []
    while batch := line.take_batch(now, lambda work: None):
        batches.append(batch)
    return batches


@given(st.lists(sequence_lists, max_size=6), st.integers(1, 30))
def test_every_item_comes_out_once_in_order_and_in_bounded_batches(requests, bound):
    line = WaitingLine(bound)
    works = [work_of(sequences) for sequences in requests]
    for work in works:
        line.join(work)
    batches = take_all(line)
    out = [(item.work, item.place) for batch in batches for item in batch]
    assert [(id(work), place) for work, place in out] == [(id(work), place) for work in works for place in work.order]
    for batch in batches:
        assert cost(batch) <= bound or len({item.place for item in batch}) == len(batch) == 1
    assert (line.items, line.tokens, len(line)) == (0, 0, 0)


@given(st.lists(sequence_lists, min_size=1, max_size=6), st.integers(1, 30))
def test_a_batch_is_as_full_as_the_order_allows(requests, bound):
    line = WaitingLine(bound)
    for sequences in requests:
        line.join(work_of(sequences))
    batches = take_all(line)
    for batch, following in pairwise(batches):
        assert cost([*batch, following[0]]) > bound


def test_an_over_long_item_goes_alone():
    line = WaitingLine(4)
    line.join(work_of([np.arange(2), np.arange(5, 15), np.arange(20, 22)]))
    assert [[item.place for item in batch] for batch in take_all(line)] == [[0], [1], [2]]


def test_items_that_share_everything_cost_nothing():
    line = WaitingLine(5)
    line.join(work_of([np.arange(5)] * 40))
    assert line.tokens == 5
    assert [len(batch) for batch in take_all(line)] == [40]


def test_the_rest_of_a_split_request_pays_its_prefix_again():
    line = WaitingLine(10)
    prefix = np.arange(8)
    line.join(work_of([np.append(prefix, 100 + n) for n in range(4)]))
    assert line.tokens == 8 + 4
    assert [len(batch) for batch in take_all(line)] == [2, 2]


def test_the_line_waits_behind_a_request_that_does_not_fit_whole():
    line = WaitingLine(6)
    first, second = work_of([np.arange(4), np.arange(10, 14)]), work_of([np.arange(20, 22)])
    line.join(first)
    line.join(second)
    assert [[(item.work is first, item.place) for item in batch] for batch in take_all(line)] == [
        [(True, 0)], [(True, 1), (False, 0)],
    ]  # fmt: skip


def test_a_request_whose_time_is_up_is_left_out_and_reported_once():
    line = WaitingLine(100)
    late, timely = work_of([np.arange(3)], deadline=5.0), work_of([np.arange(4)], deadline=6.0)
    line.join(late)
    line.join(timely)
    expired: list[Work] = []
    batch = line.take_batch(5.0, expired.append)
    assert [item.work for item in batch] == [timely]
    assert expired == [late]
    assert (line.items, line.tokens) == (0, 0)


def test_a_half_taken_request_can_expire():
    line = WaitingLine(4)
    work = work_of([np.arange(3), np.arange(10, 13)], deadline=5.0)
    line.join(work)
    assert [item.place for item in line.take_batch(0.0, lambda _: None)] == [0]
    expired: list[Work] = []
    assert line.take_batch(9.0, expired.append) == []
    assert expired == [work]
    assert (line.items, line.tokens, len(line)) == (0, 0, 0)


def test_dropping_twice_or_what_is_not_there_does_nothing():
    line = WaitingLine(100)
    first, second, stranger = (work_of([np.arange(n)]) for n in (3, 4, 5))
    line.join(first)
    line.join(second)
    line.drop(first)
    line.drop(first)
    assert (line.items, line.tokens, len(line)) == (1, 4, 1)
    line.take_batch(0.0, lambda _: None)
    line.drop(second)
    line.drop(stranger)
    assert (line.items, line.tokens, len(line)) == (0, 0, 0)


def test_the_oldest_is_the_first_in_line():
    line = WaitingLine(100)
    assert line.oldest is None
    line.join(work_of([np.arange(3)], admitted=7.0))
    line.join(work_of([np.arange(3)], admitted=8.0))
    assert line.oldest == 7.0


def test_a_request_without_items_cannot_block_the_line():
    with pytest.raises(ValueError, match="item"):
        WaitingLine(100).join(Work([], [], [], admitted=0.0))


@dataclass(eq=False)
class Model:
    """What a request should have left."""

    work: Work
    left: list[int] = field(default_factory=list)


class AnyHistory(RuleBasedStateMachine):
    """Join, take, drop and expire in any order: the counts are always those of the line's content."""

    def __init__(self) -> None:
        super().__init__()
        self.line = WaitingLine(9)
        self.waiting: list[Model] = []
        self.out: Counter[tuple[Work, int]] = Counter()
        self.now = 0.0

    @rule(sequences=sequence_lists, life=st.one_of(st.none(), st.integers(1, 4)))
    def join(self, sequences, life) -> None:
        work = work_of(sequences, None if life is None else self.now + life)
        self.line.join(work)
        self.waiting.append(Model(work, list(work.order)))

    @rule(place=st.integers(0, 20))
    def drop(self, place) -> None:
        if self.waiting:
            self.line.drop(self.waiting.pop(place % len(self.waiting)).work)

    @rule(seconds=st.integers(0, 3))
    def take(self, seconds) -> None:
        self.now += seconds
        expired: list[Work] = []
        batch = self.line.take_batch(self.now, expired.append)
        for work in expired:
            assert work.deadline is not None
            assert work.deadline <= self.now
        self.waiting = [model for model in self.waiting if model.work not in expired]
        for item in batch:
            assert item.work.deadline is None or item.work.deadline > self.now
            model = next(model for model in self.waiting if model.left)
            assert (model.work, model.left.pop(0)) == (item.work, item.place)
            self.out[item.work, item.place] += 1  # the work, not its id: that is reused once the work is gone
        self.waiting = [model for model in self.waiting if model.left]
        assert set(self.out.values()) <= {1}
        assert batch or not self.waiting

    @invariant()
    def counts_are_the_content(self) -> None:
        assert self.line.items == sum(len(model.left) for model in self.waiting)
        assert self.line.tokens == sum(sum(model.work.added[-len(model.left) :]) for model in self.waiting)
        assert len(self.line) == len(self.waiting)


TestAnyHistory = AnyHistory.TestCase


def test_one_long_item_does_not_make_many_short_ones_expensive():
    """Attention is padded to the longest item of a batch: blocks times keys are bounded, not tokens alone."""
    line = WaitingLine(1000, max_batch_cells=4 * 100, block_queries=4)
    line.join(work_of([np.array([n]) for n in range(50)]))
    line.join(work_of([np.arange(100, 180)]))
    batches = take_all(line)
    assert [len(batch) for batch in batches] == [50, 1]


@given(st.lists(sequence_lists, max_size=6), st.integers(1, 200))
def test_cells_are_bounded_but_for_a_lone_item(requests, cells):
    line = WaitingLine(1000, max_batch_cells=cells, block_queries=2)
    for sequences in requests:
        line.join(work_of(sequences))
    for batch in take_all(line):
        lengths = [len(item.work.sequences[item.place]) for item in batch]
        new = [len(lengths) and cost([item]) for item in batch]
        assert len(batch) == 1 or max(lengths) * 2 <= cells
        assert sum(new) >= len(batch)
