"""Who is hurt when a batch fails or the runner stops."""

import asyncio

import numpy as np
import pytest

from service.engine.session import EngineError, OutOfMemoryError
from service.scoring.admission import Limits
from service.scoring.cost import CostModel
from service.scoring.errors import EngineFailedError, NonFiniteScoreError
from tests.service.doubles import PATIENCE, fails, turns, until, with_any_of
from tests.service.scoring.line import items, line_over


@pytest.mark.parametrize(
    "step",
    [
        fails(EngineError("out of memory")),
        fails(RuntimeError("unforeseen")),
        fails(SystemExit(3)),
        lambda rewards: rewards[:-1],
        lambda rewards: np.vstack([rewards, rewards]),
        lambda rewards: rewards[:, 0],
        lambda rewards: rewards[:, :0],
        lambda rewards: None,
    ],
    ids=["engine error", "any error", "exit", "too few", "too many", "no heads", "no head", "nothing"],
)
async def test_a_failed_batch_fails_its_own_requests_only(pocket_bundle, step):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        line.session.always(with_any_of(line.right(items(2, "victim")), step))
        before = line.submit(items(2, "before"))
        await line.runner.submission()
        victim = line.submit(items(2, "victim"))
        await line.runner.submission()
        after = line.submit(items(2, "after"))
        await line.queued(2)
        line.session.let_go()
        assert (await before).raw == pytest.approx(line.right(items(2, "before")), abs=1e-5)
        with pytest.raises(EngineFailedError, match="the batch of this request failed"):
            await victim
        assert (await after).raw == pytest.approx(line.right(items(2, "after")), abs=1e-5)
        assert line.runner.alive(1.0)
        # The batch and its first half; then nobody waits for the other.
        assert line.metric("assay_engine_errors_total", kind="runtime") == 2
        assert line.metric("assay_samples_total", model="pocket", outcome="error") == 2


async def test_an_item_that_the_engine_cannot_bear_spares_the_other_half_of_its_batch(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "xy"]
        for _ in running:
            await line.runner.submission()
        poison = items(1, "poison")
        line.session.always(with_any_of(line.right(poison), fails(EngineError("cannot bear it"))))
        requests = {name: line.submit(items(1, name)) for name in ("a", "b", "poison", "c")}
        await line.queued(4)
        line.session.let_go()
        outcomes = await asyncio.gather(*requests.values(), return_exceptions=True)
        assert [len(layout.read_index) for layout in line.session.layouts] == [1, 1, 4, 2, 2]
        failed = [name for name, outcome in zip(requests, outcomes, strict=True) if isinstance(outcome, Exception)]
        assert "poison" in failed and len(failed) == 2
        for name, outcome in zip(requests, outcomes, strict=True):
            if name not in failed:
                assert outcome.raw == pytest.approx(line.right(items(1, name)), abs=1e-5)
        await asyncio.gather(*running)


async def test_a_failed_batch_is_not_halved_when_scores_must_be_equal_to_the_bit(pocket_bundle):
    async with line_over(pocket_bundle, deterministic=True) as line:
        line.session.then(fails(EngineError("broken")))
        with pytest.raises(EngineFailedError, match="broken"):
            await line.submit(items(4))
        assert len(line.session.layouts) == 1


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("poisoned", [[0], [36], [3, 20], [0, 1], list(range(37))])
async def test_what_is_no_number_and_spreads_to_its_batch_fails_alone(pocket_bundle, poisoned, deterministic):
    wanted = items(37)
    async with line_over(pocket_bundle, deterministic=deterministic) as line:
        right = line.right(wanted)
        line.session.always(with_any_of([right[place] for place in poisoned], lambda rewards: rewards * np.nan))
        scores = await line.submit(wanted, per_item_failures=True)
        for place, item in enumerate(scores.items):
            if place in poisoned:
                assert isinstance(item.score, NonFiniteScoreError)
            else:
                assert item.score == pytest.approx(right[place], abs=1e-5)
        assert len(line.session.layouts) <= 1 + 2 * 6 * len(poisoned)  # of 37 items, six halvings leave one
        assert line.metric("assay_queue_samples") == 0


async def test_of_a_batch_only_what_is_no_number_is_computed_again(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.always(turns(line.right(items(9))[4]))
        scores = await line.submit(items(9), per_item_failures=True)
        assert sum(isinstance(item.score, float) for item in scores.items) == 8
        assert [len(layout.read_index) for layout in line.session.layouts] == [9, 1]


@pytest.mark.parametrize("poisoned", [[0], [63], [5, 9, 30, 60]])
async def test_nobody_is_told_that_a_batch_mate_s_nan_is_theirs(pocket_bundle, poisoned):
    """Where a run costs the same however small it is, as on a GPU, halving costs a batch or more a level."""
    async with line_over(pocket_bundle) as line:
        line.scheduler.use_cost_model(CostModel(1.0, 0.0, 1e-9))
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "xy"]
        for _ in running:
            await line.runner.submission()
        wanted = [items(1, f"{place}.") for place in range(64)]
        right = [line.right(one)[0] for one in wanted]
        line.session.always(with_any_of([right[place] for place in poisoned], lambda rewards: rewards * np.nan))
        requests = [line.submit(one) for one in wanted]
        await line.queued(64)
        line.session.let_go()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert len(line.session.layouts[2].read_index) == 64
        for place, outcome in enumerate(outcomes):
            if place in poisoned:
                assert isinstance(outcome, NonFiniteScoreError | EngineFailedError)
            elif isinstance(outcome, Exception):  # to be asked again: which of some was to blame is not known
                assert len(poisoned) > 1
                assert isinstance(outcome, EngineFailedError)
                assert "got no finite score beside each other" in str(outcome)
            else:
                assert outcome.raw == pytest.approx([right[place]], abs=1e-5)
        assert len(line.session.layouts) <= 3 + 2 * 6 + 8
        await asyncio.gather(*running)


async def test_a_defect_after_a_batch_leaves_nobody_waiting(pocket_bundle, monkeypatch):
    async with line_over(pocket_bundle) as line:
        with monkeypatch.context() as broken:
            broken.setattr(line.scheduler, "_hand_out", fails(KeyError("a defect")))
            with pytest.raises(EngineFailedError, match="a defect"):
                await line.submit(items(3))
        assert (await line.submit(items(3))).raw == pytest.approx(line.right(items(3)), abs=1e-5)


async def test_a_part_that_nobody_waits_for_any_more_does_not_run(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        line.session.then(lambda rewards: rewards * np.nan)
        request = line.submit(items(8))
        await line.runner.submission()
        other = line.submit(items(2, "other"))
        await line.runner.submission()
        line.session.release()
        assert len((await line.runner.submission()).read_index) == 4  # the first half, behind the other batch
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        line.session.let_go()
        assert (await other).raw == pytest.approx(line.right(items(2, "other")), abs=1e-5)
        await until(lambda: line.metric("assay_inflight_samples") == 0)
        assert [len(layout.read_index) for layout in line.session.layouts] == [8, 2]


async def test_scores_that_are_none_are_not_computed_again_without_end(pocket_bundle):
    """As where the prompt of them all makes them none."""
    wanted = items(200)
    async with line_over(pocket_bundle) as line:
        line.session.always(lambda rewards: rewards * np.nan)
        scores = await line.submit(wanted, per_item_failures=True)
        assert all(isinstance(item.score, NonFiniteScoreError) for item in scores.items)
        assert sum(layout.tokens for layout in line.session.layouts) <= 12 * scores.computed_tokens
        assert line.metric("assay_queue_samples") == 0


async def test_a_part_that_fails_where_scores_are_computed_again_is_halved_as_any_batch(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.then(lambda rewards: rewards * np.nan, fails(OutOfMemoryError("no room")))
        assert (await line.submit(items(8))).raw == pytest.approx(line.right(items(8)), abs=1e-5)
        assert [len(layout.read_index) for layout in line.session.layouts] == [8, 4, 2, 2, 4]


@pytest.mark.parametrize("rewards", [np.array([["a"]]), np.array([[None]], dtype=object)])
async def test_rewards_of_another_type_fail_the_batch(pocket_bundle, rewards):
    async with line_over(pocket_bundle) as line:
        line.session.then(lambda _: rewards)
        with pytest.raises(EngineFailedError):
            await line.submit(items(1))
        assert (await line.submit(items(1))).raw == pytest.approx(line.right(items(1)), abs=1e-5)


async def test_what_nobody_waits_for_any_more_is_not_computed_again(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        line.session.then(lambda rewards: rewards * np.nan)
        request = line.submit(items(8))
        await line.session.batch()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        line.session.let_go()
        await until(lambda: line.metric("assay_inflight_samples") == 0)
        assert (await line.submit(items(8))).raw == pytest.approx(line.right(items(8)), abs=1e-5)
        assert [len(layout.read_index) for layout in line.session.layouts] == [8, 8]


async def test_the_rest_of_a_split_request_is_not_computed_after_a_failure(pocket_bundle):
    async with line_over(pocket_bundle, Limits(1000, 100_000, batch_tokens=40)) as line:
        line.session.always(fails(EngineError("broken")))
        with pytest.raises(EngineFailedError):
            await line.submit(items(200))
        assert line.metric("assay_queue_samples") == 0
        line.session.always(lambda rewards: rewards)
        assert (await line.submit(items(3))).raw == pytest.approx(line.right(items(3)), abs=1e-5)
        assert len(line.session.layouts) <= 5  # the batch and the one behind it, half of each, and the last


async def test_a_stopped_runner_is_an_error_and_not_a_hang(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        assert await asyncio.to_thread(line.runner.stop, 10)
        with pytest.raises(EngineFailedError, match="not running"):
            await line.submit(items(1))


async def test_stopping_finishes_what_was_handed_over_and_fails_the_rest_loudly(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        handed = [line.submit(items(2, name)) for name in "ab"]
        for _ in handed:
            await line.runner.submission()
        waiting = line.submit(items(2, "c"))
        await line.queued(2)
        stopping = asyncio.ensure_future(asyncio.to_thread(line.runner.stop, 10))
        await until(lambda: line.runner._closed)
        line.session.let_go()
        for name, request in zip("ab", handed, strict=True):
            assert (await request).raw == pytest.approx(line.right(items(2, name)), abs=1e-5)
        with pytest.raises(EngineFailedError):
            await waiting
        assert await stopping


async def test_a_batch_that_lacks_memory_is_tried_again_in_two_halves(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.then(fails(OutOfMemoryError("no room")))
        scores = await line.submit(items(9))
        assert scores.raw == pytest.approx(line.right(items(9)), abs=1e-5)
        assert [len(layout.read_index) for layout in line.session.layouts] == [9, 4, 5]
        assert line.metric("assay_engine_errors_total", kind="oom") == 1


async def test_a_half_that_still_lacks_memory_fails_alone(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        first = line.submit(items(1, "first"))
        await line.runner.submission()
        second = line.submit(items(1, "second"))
        await line.runner.submission()
        requests = [line.submit(items(4, name)) for name in "ab"]
        await line.queued(8)
        line.session.then(*[lambda rewards: rewards] * 2, fails(OutOfMemoryError("no")), fails(OutOfMemoryError("no")))
        line.session.let_go()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(EngineFailedError) == 1
        for name, outcome in zip("ab", outcomes, strict=True):
            if not isinstance(outcome, EngineFailedError):
                assert outcome.raw == pytest.approx(line.right(items(4, name)), abs=1e-5)
        for name, request in (("first", first), ("second", second)):
            assert (await request).raw == pytest.approx(line.right(items(1, name)), abs=1e-5)


async def test_an_item_that_lacks_memory_alone_fails(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.then(fails(OutOfMemoryError("no room")))
        with pytest.raises(EngineFailedError, match="no room"):
            await line.submit(items(1))
        assert len((await line.submit(items(1))).raw) == 1


async def test_when_the_engine_is_given_up_everybody_fails(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        requests = [line.submit(items(2, name)) for name in "abcd"]
        await line.queued(4)
        line.scheduler.fail_all("the engine died")
        for outcome in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(outcome, EngineFailedError)
            assert str(outcome) == "the engine died"
        assert line.metric("assay_queue_samples") == 0
        line.session.let_go()


async def test_who_comes_when_the_engine_was_given_up_fails_at_once(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        held = [line.submit(items(2, name)) for name in "ab"]
        for _ in held:
            await line.runner.submission()
        line.scheduler.fail_all("the engine hangs")
        with pytest.raises(EngineFailedError, match="the engine hangs"):
            await asyncio.wait_for(line.submit(items(2, "c")), PATIENCE)
        await asyncio.gather(*held, return_exceptions=True)
        line.session.let_go()
