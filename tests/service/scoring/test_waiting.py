"""The line loses nothing, computes nothing twice, and counts right, whatever joins, leaves, runs and ends."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.bundle.layout import Family
from service.scoring.cost import CostModel
from service.scoring.waiting import WaitingItem, WaitingLine, Work
from tests.service.scoring.sequences import FAMILIES, distinct, forest, requests

BY_TOKENS = CostModel(fixed=0.0, per_token=1.0, per_cell=0.0)


def line_of(*items_of_works, family: Family = Family.CAUSAL) -> tuple[WaitingLine, list[Work]]:
    line = WaitingLine(family)
    return line, [
        line.join(distinct(items), float(now), None, BY_TOKENS) for now, items in enumerate(items_of_works, start=7)
    ]


def test_the_oldest_is_the_first_whose_items_are_not_all_in_batches():
    line, (first, _) = line_of([np.arange(3)], [np.arange(4)])
    assert line.oldest == 7.0
    line.take([item.key for item in first.items])
    assert line.oldest == 8.0
    line.drop(next(line.by_age()))
    assert line.oldest is None


def test_requests_are_in_classes_of_fourfold_work_with_the_oldest_first():
    line, works = line_of(*(([np.arange(1000 * n, 1000 * n + size)]) for n, size in enumerate([90, 3, 10, 100, 2, 14])))
    assert [[works.index(work) for work in peers] for peers in line.by_size()] == [[1, 4], [2, 5], [0, 3]]


def test_a_request_is_as_large_as_what_it_adds_to_the_line():
    prefix = np.arange(1, 60)
    _, (first, second, third) = line_of(
        [np.append(prefix, 100)], [np.append(prefix, 101), np.append(prefix, 102)], [np.append(prefix, 100)]
    )
    assert (first.size, second.size) == (3, 1)
    assert third.added == 0 and third.size == first.size  # all of it was waiting


def test_a_request_without_items_would_never_be_done():
    with pytest.raises(ValueError, match="item"):
        WaitingLine(Family.CAUSAL).join({}, 0.0, None, BY_TOKENS)


def test_an_item_is_wanted_while_one_who_waits_for_it_has_time():
    line = WaitingLine(Family.CAUSAL)
    for deadline in 5.0, 6.0:
        work = line.join(distinct([np.arange(3)]), 0.0, deadline, BY_TOKENS)
    (item,) = work.items
    assert [item.wanted(now) for now in (4.0, 5.0, 6.0)] == [True, True, False]


@dataclass(eq=False)
class Expected:
    """A request that has not left, and the keys that it waits for."""

    work: Work
    keys: set[bytes]


class AnyHistory(RuleBasedStateMachine):
    """The counts are always those of the content, and every item has exactly those who wait for it."""

    @initialize(family=st.sampled_from(FAMILIES))
    def begin(self, family) -> None:
        self.family = family
        self.line = WaitingLine(family)
        self.here: list[Expected] = []
        self.waiting: dict[bytes, np.ndarray] = {}
        self.batches: list[list[WaitingItem]] = []
        self.late_joins: set[tuple[Work, bytes]] = set()

    def running(self) -> dict[bytes, WaitingItem]:
        return {item.key: item for batch in self.batches for item in batch}

    @rule(items=requests)
    def join(self, items) -> None:
        new = distinct(items, self.family)
        work = self.line.join(new, 0.0, None, BY_TOKENS)
        self.here.append(Expected(work, set(new)))
        running = self.running()
        self.late_joins |= {(work, key) for key in new if key in running}
        self.waiting |= {key: sequence for key, sequence in new.items() if key not in running}
        assert [item.key for item in work.items] == list(new)
        assert [item.key for item in work.waiting] == [key for key in new if key not in running]

    @rule(which=st.integers(0, 20))
    def drop(self, which) -> None:
        if not self.here:
            return
        gone = self.here.pop(which % len(self.here))
        self.line.drop(gone.work)
        self.line.drop(gone.work)
        wanted = {key for other in self.here for key in other.keys}
        self.waiting = {key: sequence for key, sequence in self.waiting.items() if key in wanted}

    @rule(which=st.integers(1, 2**30))
    def take(self, which) -> None:
        keys = [key for bit, key in enumerate(self.waiting) if which >> bit & 1]
        batch = self.line.take(keys)
        assert [item.key for item in batch] == keys
        if batch:
            self.batches.append(batch)
        for key in keys:
            del self.waiting[key]

    @rule(which=st.integers(0, 5))
    def finish(self, which) -> None:
        if not self.batches:
            return
        batch = self.batches.pop(which % len(self.batches))
        self.line.finish(batch)
        self.line.finish(batch)
        for item in batch:
            assert set(item.waiters) == {other.work for other in self.here if item.key in other.keys}
            for other in self.here:
                other.keys.discard(item.key)
            self.late_joins = {pair for pair in self.late_joins if pair[1] != item.key}
        self.here = [other for other in self.here if other.keys]

    @invariant()
    def counts_are_the_content(self) -> None:
        line, running = self.line, self.running()
        assert line.running == len(running)
        assert len(line.index) == len(self.waiting)
        assert line.index.tokens == sum(added for _, added in forest(list(self.waiting.values()), self.family))
        places = sum(1 for other in self.here for key in other.keys if key in self.waiting)
        late = sum(1 for other in self.here for key in other.keys if (other.work, key) in self.late_joins)
        assert line.places == places + late
        assert all(key in line for key in [*self.waiting, *running])

    @invariant()
    def the_orders_hold_those_who_wait_for_a_batch(self) -> None:
        expected = [other.work for other in self.here if other.keys & set(self.waiting)]
        assert list(self.line.by_age()) == expected
        assert len(self.line) == len(expected)
        waiting = [self.line[key] for key in self.waiting]
        for item in waiting:
            assert item.size == min(work.size for work in item.waiters)
        for work in expected:
            smaller = sum(item.seconds for item in waiting if item.size <= work.size)
            larger = sum(item.seconds for item in waiting if item.size > work.size)
            assert self.line.seconds_up_to(work) == pytest.approx(smaller, abs=1e-6)
            assert self.line.seconds_after(work) == pytest.approx(larger, abs=1e-6)
        by_size = [work for peers in self.line.by_size() for work in peers]
        assert set(by_size) == set(expected) and len(by_size) == len(expected)
        for other in self.here:
            assert {item.key for item in other.work.waiting} == other.keys & set(self.waiting)


TestAnyHistory = AnyHistory.TestCase
