"""The warm-up: the largest batch first, and every way in which it may fail."""

import asyncio

import numpy as np
import pytest

from service.bundle.layout import Family
from service.engine.runner import Runner
from service.engine.session import EngineError
from service.engine.warmup import warm_up
from tests.pocket import write_pocket_bundle
from tests.service.doubles import PATIENCE, ScriptedSession, fails, spoils, until


@pytest.fixture
def session():
    return ScriptedSession()


@pytest.fixture
def runner(session):
    runner = Runner(session)
    runner.start()
    yield runner
    session.let_go()
    runner.stop(PATIENCE)


async def test_the_largest_batch_comes_first(runner, session, pocket_bundle):
    samples = await warm_up(runner, pocket_bundle, 640)
    largest, again, long, _, several, _, single, _ = session.layouts
    assert largest is again
    assert len(largest.read_index) == 10
    assert (len(long.read_index), long.tokens) == (1, 64)
    assert 600 < largest.tokens <= 640
    assert largest.position_ids.max() == 63
    assert len(several.read_index) == 8
    assert len(single.read_index) == 1
    assert [(sample.tokens, sample.longest) for sample in samples] == [
        (largest.tokens, 64), (64, 64), (several.tokens, several.position_ids.max() + 1), (single.tokens,) * 2,
    ]  # fmt: skip
    assert all(sample.seconds >= 0 for sample in samples)


async def test_a_batch_of_one_item(runner, session, pocket_bundle):
    await warm_up(runner, pocket_bundle, 64)
    assert session.layouts[0].tokens == 64


@pytest.mark.parametrize("family", list(Family))
async def test_the_shortest_model(tmp_path, family):
    session = ScriptedSession(family)
    runner = Runner(session)
    runner.start()
    await warm_up(runner, write_pocket_bundle(tmp_path / "b", family, max_tokens=5), 100)
    assert runner.stop(PATIENCE)


async def test_a_model_that_has_no_room_for_a_text(tmp_path, runner):
    bundle = write_pocket_bundle(tmp_path / "b", Family.BIDIRECTIONAL, max_tokens=4)
    bundle.formatter.max_tokens = 3
    with pytest.raises(EngineError, match="no room for a text"):
        await warm_up(runner, bundle, 100)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (fails(EngineError("out of memory")), "out of memory"),
        (fails(RuntimeError("unforeseen")), "unforeseen"),
        (spoils(0), "not finite"),
        (spoils(-1, np.inf), "not finite"),
        (lambda rewards: rewards[1:], "rewards of shape"),
        (lambda rewards: np.hstack([rewards, rewards]), "rewards of shape"),
    ],
)
async def test_a_warm_up_that_fails(runner, session, pocket_bundle, step, says):
    session.then(lambda rewards: rewards, step)
    with pytest.raises(EngineError, match=says):
        await warm_up(runner, pocket_bundle, 640)


async def test_it_can_be_given_up_while_a_batch_hangs(runner, session, pocket_bundle):
    session.hold()
    warming = asyncio.ensure_future(warm_up(runner, pocket_bundle, 640))
    await session.batch()
    warming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warming


async def test_stopping_meanwhile_ends_it(runner, session, pocket_bundle):
    session.hold()
    warming = asyncio.ensure_future(warm_up(runner, pocket_bundle, 640))
    await session.batch()
    stopping = asyncio.ensure_future(asyncio.to_thread(runner.stop, PATIENCE))
    await until(lambda: runner._closed)
    session.let_go()
    with pytest.raises(EngineError, match="not running"):
        await warming
    assert await stopping
