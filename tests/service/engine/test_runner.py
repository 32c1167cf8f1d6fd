"""The runner: one batch after the other, whatever happens in one, and a heartbeat that does not lie."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.bundle.layout import Family, plan_layout
from service.engine.runner import MOST_FAILED_PROBES, PROBES_FAIL_FOR, Runner
from service.engine.session import EngineError, OutOfMemoryError
from tests.service.doubles import PATIENCE, Clock, ScriptedSession, fails, until

PROBE = plan_layout([np.array([97])], Family.CAUSAL, block_queries=8)
LAYOUT = plan_layout([np.array([97, 98]), np.array([99])], Family.CAUSAL, block_queries=8)


@pytest.fixture
def session():
    return ScriptedSession()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def runner(session, clock):
    runner = Runner(session, clock)
    runner.start()
    yield runner
    session.let_go()
    assert runner.stop(PATIENCE)


def test_it_runs_one_batch_after_the_other(runner, session, clock):
    session.hold()
    first, second = runner.submit(LAYOUT), runner.submit(LAYOUT)
    session.wait_for_batch()
    clock.now += 3
    assert len(session.layouts) == 1
    session.release()
    assert (first.result(PATIENCE).started, first.result().ended) == (1000, 1003)
    session.let_go()
    assert second.result(PATIENCE).rewards.shape == (2, 1)


@pytest.mark.parametrize(
    "error", [EngineError("x"), ValueError("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()]
)
def test_nothing_but_stop_ends_it(runner, session, error):
    session.then(fails(error))
    with pytest.raises(EngineError):
        runner.submit(LAYOUT).result(PATIENCE)
    assert len(runner.submit(LAYOUT).result(PATIENCE).rewards) == 2
    assert runner.alive(1.0)


async def test_an_engine_that_fails_on_everything_is_dead(runner, session, clock):
    """Errors of CUDA stay: without this the server would refuse every batch, and be ready for ever."""
    runner.probe = PROBE
    session.always(fails(EngineError("CUDA failure 700")))
    for number in range(MOST_FAILED_PROBES):
        assert runner.broken is None
        with pytest.raises(EngineError):
            runner.submit(LAYOUT).result(PATIENCE)
        await until(lambda number=number: len(runner._failed_probes) == number + 1)
        clock.now += PROBES_FAIL_FOR / 2
    await until(lambda: not runner.alive(1.0))
    assert runner.broken == "the engine fails on every batch: CUDA failure 700"


@pytest.mark.parametrize(("error", "pause"), [(EngineError("x"), 0.001), (OutOfMemoryError("no room"), 10.0)])
def test_what_passes_is_not_the_end(runner, session, clock, error, pause):
    """A batch and its halves fail at once; and memory that somebody else has taken comes back."""
    runner.probe = PROBE
    session.always(fails(error))
    for _ in range(2 * MOST_FAILED_PROBES):
        clock.now += pause
        with pytest.raises(EngineError):
            runner.submit(LAYOUT).result(PATIENCE)
    session.always(lambda rewards: rewards)
    assert runner.submit(LAYOUT).result(PATIENCE)
    assert runner.alive(1.0)


async def test_batches_that_fail_are_not_the_engine(runner, session):
    runner.probe = PROBE
    for number in range(2 * MOST_FAILED_PROBES):
        session.then(fails(EngineError("too large")))
        with pytest.raises(EngineError, match="too large"):
            runner.submit(LAYOUT).result(PATIENCE)
        await until(lambda done=2 * number + 2: len(session.layouts) == done and runner._busy_since is None)
    assert runner.submit(LAYOUT).result(PATIENCE)
    assert runner.alive(1.0)
    # Each failure is followed by the probe, and a probe that works forgives those before.
    assert [len(layout.read_index) for layout in session.layouts] == [2, 1] * 2 * MOST_FAILED_PROBES + [2]


def test_a_batch_that_works_forgives_probes_that_did_not(runner, session):
    runner.probe = PROBE
    for _ in range(MOST_FAILED_PROBES):
        session.then(fails(EngineError("x")), *[fails(EngineError("no memory for a moment"))])
        with pytest.raises(EngineError):
            runner.submit(LAYOUT).result(PATIENCE)
        assert runner.submit(LAYOUT).result(PATIENCE)
    assert runner.alive(1.0)


def test_the_heartbeat(runner, session, clock):
    clock.now += 10_000
    assert runner.alive(5.0)  # idle is alive
    session.hold()
    batch = runner.submit(LAYOUT)
    session.wait_for_batch()
    assert runner.alive(5.0)
    clock.now += 5
    assert runner.alive(5.0)
    clock.now += 0.1
    assert not runner.alive(5.0)
    session.let_go()
    batch.result(PATIENCE)
    assert runner.alive(5.0)


def test_each_batch_has_its_own_time(runner, session, clock):
    session.hold()
    batches = [runner.submit(LAYOUT) for _ in range(3)]
    for batch in batches:
        session.wait_for_batch()
        clock.now += 4
        assert runner.alive(5.0)
        session.release()
        batch.result(PATIENCE)


def test_it_is_not_alive_before_and_after(session):
    runner = Runner(session)
    assert not runner.alive(1.0)
    with pytest.raises(EngineError, match="not running"):
        runner.submit(LAYOUT).result(PATIENCE)
    runner.start()
    assert runner.alive(1.0)
    assert runner.stop(PATIENCE)
    assert not runner.alive(1.0)
    with pytest.raises(EngineError, match="not running"):
        runner.submit(LAYOUT).result(PATIENCE)
    assert runner.stop(PATIENCE)  # a second time does nothing


def test_stopping_one_that_never_started(session):
    assert Runner(session).stop(PATIENCE)


def test_stopping_finishes_what_was_submitted(runner, session):
    batches = [runner.submit(LAYOUT) for _ in range(5)]
    assert runner.stop(PATIENCE)
    assert all(batch.done() and batch.exception() is None for batch in batches)


def test_stopping_a_stuck_one_is_bounded(runner, session):
    session.hold()
    runner.submit(LAYOUT)
    session.wait_for_batch()
    assert not runner.stop(0.01)


def test_whatever_is_submitted_while_it_stops_gets_an_answer(session):
    with ThreadPoolExecutor(1) as caller:
        for _ in range(50):
            runner = Runner(session)
            runner.start()
            futures = [caller.submit(runner.submit, LAYOUT) for _ in range(20)]
            assert runner.stop(PATIENCE)
            for future in futures:
                batch = future.result(PATIENCE)
                assert batch.exception(PATIENCE) is None or isinstance(batch.exception(), EngineError)


def test_a_caller_who_cancels_does_not_end_it(runner, session):
    """An event loop that ends cancels what it waits for, also what the runner is about to fulfil."""

    async def abandon() -> None:
        running = asyncio.wrap_future(runner.submit(LAYOUT))
        waiting = asyncio.wrap_future(runner.submit(LAYOUT))
        await session.batch()
        for future in running, waiting:
            future.cancel()
        await asyncio.sleep(0)  # the cancellation reaches the runner's own futures

    session.hold()
    asyncio.run(abandon())
    session.let_go()
    assert len(runner.submit(LAYOUT).result(PATIENCE).rewards) == 2
    assert runner.alive(1.0)
    assert len(session.layouts) == 2  # what was cancelled in time did not run
