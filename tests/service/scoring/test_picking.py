"""Batches are never empty while anything waits, small requests do not wait for large ones, and nobody starves."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import IntArray
from service.scoring.batch import FAMILY_STRETCH, Bounds
from service.scoring.cost import Attention, CostModel
from service.scoring.picking import AGE_SHARE
from service.scoring.waiting import Work
from tests.service.scoring.sequences import FAMILIES, requests
from tests.service.scoring.virtual_engine import ANY, Engine, bounds, models


def run(first: int, length: int) -> IntArray:
    return np.arange(first, first + length)


@given(st.lists(requests, max_size=6), bounds, models, st.sampled_from(FAMILIES))
def test_every_item_is_picked_once_and_no_batch_is_empty(all_requests, limits, model, family):
    engine = Engine(limits, model, family)
    works = [engine.join(*items) for items in all_requests]
    wanted = {item.key for work in works for item in work.items}
    while len(engine.line):
        assert len(engine.step())
    picked = Counter(key for batch in engine.batches for key in batch.sequences)
    assert picked == dict.fromkeys(wanted, 1)
    assert len(engine.step()) == 0


@given(st.lists(st.tuples(requests, st.one_of(st.none(), st.integers(1, 9))), max_size=8), bounds, models)
def test_nothing_is_picked_for_those_whose_time_is_up(all_requests, limits, model):
    engine = Engine(limits, model)
    works = [engine.join(*items, deadline=deadline) for items, deadline in all_requests]
    while len(engine.line):
        batch = engine.step()  # which checks that somebody who has time wants each item
        assert len(batch) or not len(engine.line)
    for work in works:
        if work.deadline is None:
            assert work in engine.picked and not work.waiting


arrivals = st.lists(st.one_of(requests, st.none(), st.none()), min_size=1, max_size=40)


@given(arrivals, bounds, models, st.sampled_from(FAMILIES))
def test_the_bound_holds_for_every_request_under_any_arrivals(history, limits, model, family):
    """None stands for a batch, a list for a request that comes: any interleaving, however adverse."""
    engine = Engine(limits, model, family)
    bound: dict[Work, float] = {}
    longest = 0.0

    def step() -> None:
        nonlocal longest
        longest = max(longest, engine.step().seconds)

    def bounded() -> None:
        for work, most in bound.items():
            if not work.waiting:
                debt = (1 - AGE_SHARE) * limits.seconds  # that the picker lets stand; stated rounded up to one b
                most_now = most + debt / AGE_SHARE + longest
                assert engine.picked[work] - work.admitted <= most_now * (1 + 1e-6)
                stated = most + 2 * max(FAMILY_STRETCH * limits.seconds, longest)
                assert most_now <= stated

    for event in history:
        if event is None:
            step()
            bounded()
            continue
        work = engine.join(*event)
        waiting = {item.key for other in engine.line.by_age() for item in other.waiting}
        bound[work] = sum(map(engine.alone, waiting)) / AGE_SHARE
    while len(engine.line):
        step()
        bounded()
    assert longest <= max([FAMILY_STRETCH * limits.seconds, *(model.seconds(n, n * (n + 1)) for n in range(1, 13))])


@pytest.mark.parametrize("small_per_batch", [1, 10, 40])
def test_a_large_request_gets_its_share_however_many_small_ones_come(small_per_batch):
    engine = Engine(Bounds(ANY, ANY, 10.0))
    large = engine.join(*(run(10_000 + 100 * n, 5) for n in range(40)))  # 200 seconds of work
    fresh = iter(range(100_000, 10**9, 10))
    while large.waiting:
        for _ in range(small_per_batch):
            engine.join(run(next(fresh), 1))
        engine.step()
    assert engine.now <= 200 / AGE_SHARE + 2 * 10


def test_a_small_request_does_not_wait_for_the_large_ones_before_it():
    engine = Engine(Bounds(ANY, ANY, 10.0))
    for request in range(20):
        engine.join(*(run(100_000 * request + 100 * n, 5) for n in range(1, 40)))
    for _ in range(50):
        small = engine.join(run(10**7 + 100 * len(engine.batches), 2))
        engine.step()
        if small.waiting:  # one batch in four is the oldest request's
            engine.step()
        assert not small.waiting
        assert engine.batches[-1].seconds <= 10.0


def test_items_that_share_a_prefix_are_picked_together_whichever_request_they_came_in():
    engine = Engine(Bounds(ANY, ANY, 30.0))
    works = [engine.join(np.append(run(1000 * group, 20), 10 + n)) for n in range(8) for group in (1, 2, 3)]
    for _ in range(3):
        batch = engine.step()
        assert len({int(sequence[0]) for sequence in batch.sequences.values()}) == 1
        assert (len(batch), batch.tokens) == (8, 20 + 8)
    assert not any(work.waiting for work in works)


@pytest.mark.parametrize("family", FAMILIES)
def test_items_of_similar_length_are_picked_together(family):
    lengths = np.random.default_rng(0).integers(100, 800, 400)
    limits = Bounds(4096, ANY, 2.0)
    engine = Engine(limits, CostModel(0.01, 5e-4, 1e-6), family)
    for place, length in enumerate(lengths):
        engine.join(run(1000 * place, int(length)))
    while len(engine.line):
        engine.step()
    cells = sum(batch.cells for batch in engine.batches)
    needed = sum(Attention(1).cells(int(length), int(length)) for length in lengths)
    assert 1 - needed / cells < 0.25
    spared = engine.model.seconds(int(lengths.sum()), needed) - engine.model.fixed
    assert engine.now < 1.1 * spared  # padding and the fixed part of every batch together


def test_the_debt_to_the_oldest_is_forgotten_when_nobody_waits():
    engine = Engine(Bounds(ANY, ANY, 10.0))
    for place in range(100):
        engine.join(run(100 * place, 1))
        engine.step()
    engine.join(*(run(10_000 + 100 * n, 5) for n in range(40)))
    small = engine.join(run(10**6, 1))
    engine.step()
    assert not small.waiting
