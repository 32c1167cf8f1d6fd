"""A request's batches depend on the request alone, and nobody starves for it."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family
from service.engine.session import OutOfMemoryError
from service.scoring.batch import Batch
from service.scoring.cost import Attention, CostModel
from service.scoring.deterministic import RequestPicker
from service.scoring.errors import EngineFailedError
from service.scoring.picking import AGE_SHARE
from service.scoring.waiting import Work
from tests.service.doubles import fails
from tests.service.scoring.line import ROOMY, items, line_over
from tests.service.scoring.sequences import FAMILIES, requests
from tests.service.scoring.virtual_engine import Engine, bounds, models

arrivals = st.lists(st.one_of(requests, st.none(), st.none()), max_size=30)


def batches_of(work: Work, engine: Engine) -> list[list[bytes]]:
    """The tokens of a request's batches, as they ran."""
    mine = {item.key for item in work.items}
    found = []
    for batch in engine.batches:
        if mine & set(batch.sequences):
            assert mine >= set(batch.sequences), "another request's items are in the batch"
            found.append([sequence.tobytes() for sequence in batch.sequences.values()])
    return found


def drained(engine: Engine) -> Engine:
    while len(engine.line):
        assert len(engine.step())
    return engine


@given(requests, arrivals, st.integers(0, 30), bounds, models, models, st.sampled_from(FAMILIES))
def test_the_batches_of_a_request_are_the_same_in_any_traffic(asked, history, at, limits, model, other, family):
    alone = Engine(limits, model, family, RequestPicker)
    first = alone.join(*asked)
    drained(alone)
    busy = Engine(replace(limits, seconds=limits.seconds / 2), other, family, RequestPicker)
    second = None
    for place, event in enumerate([*history, None]):
        if second is None and place >= min(at, len(history)):
            second = busy.join(*asked)
        if event is None:
            busy.step()
        else:
            busy.join(*event)
    drained(busy)
    assert second is not None
    assert batches_of(second, busy) == batches_of(first, alone)


@given(arrivals, bounds, models, st.sampled_from(FAMILIES))
def test_the_bound_holds_for_every_request_under_any_arrivals(history, limits, model, family):
    engine = Engine(limits, model, family, RequestPicker)
    bound: dict[Work, float] = {}
    single: dict[bytes, float] = {}
    largest = 0.0

    def step() -> None:
        nonlocal largest
        before = engine.now
        engine.step()
        largest = max(largest, engine.now - before)

    for event in history:
        if event is None:
            step()
            continue
        work = engine.join(*event)
        for other in engine.line.by_age():
            for item in other.waiting:
                single[item.key] = Batch(limits, model, family, Attention(1)).alone(len(item.sequence))
        bound[work] = sum(single[item.key] for other in engine.line.by_age() for item in other.waiting)
    while len(engine.line):
        step()
    # In company an item may cost more than alone here: fixed coefficients decide, not this model's.
    dearer = max([1.0, *(_dearer(batch, model, family) for batch in engine.batches if len(batch))])
    for work, waited in bound.items():
        most = dearer * waited / AGE_SHARE + 4 * largest
        assert engine.picked[work] - work.admitted <= most * (1 + 1e-6) + 1e-9


def _dearer(batch: Batch, model: CostModel, family: Family) -> float:
    one_by_one = sum(
        Batch(batch._bounds, model, family, Attention(1)).alone(len(sequence)) for sequence in batch.sequences.values()
    )
    return model.seconds(batch.tokens, batch.cells) / one_by_one


async def test_equal_requests_run_as_equal_batches_and_share_nothing(pocket_bundle):
    async with line_over(pocket_bundle, replace(ROOMY, batch_tokens=20), deterministic=True) as line:
        alone = await line.submit(items(12))
        before = len(line.session.layouts)
        line.session.hold()
        others = [line.submit(items(3, name)) for name in "ab"]
        for _ in range(before + len(others)):  # two of which are in flight now
            await line.runner.submission()
        again = [line.submit(items(12)) for _ in range(3)]
        await line.queued(36)
        line.session.let_go()
        assert [(await one).raw for one in again] == [alone.raw] * 3
        for name, scores in zip("ab", others, strict=True):
            assert (await scores).raw == pytest.approx(line.right(items(3, name)), abs=1e-5)
        first = [layout.arrays() for layout in line.session.layouts[:before]]
        equal = [
            layout
            for layout in line.session.layouts[before:]
            if any(_same(layout.arrays(), arrays) for arrays in first)
        ]
        assert before > 1
        assert len(equal) == 3 * before


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


async def test_a_batch_that_lacks_memory_fails_instead_of_rounding_otherwise(pocket_bundle):
    async with line_over(pocket_bundle, deterministic=True) as line:
        line.session.then(fails(OutOfMemoryError("no memory")))
        with pytest.raises(EngineFailedError):
            await line.submit(items(4))
        assert len(line.session.layouts) == 1
        assert len((await asyncio.wait_for(line.submit(items(4)), 10)).raw) == 4
