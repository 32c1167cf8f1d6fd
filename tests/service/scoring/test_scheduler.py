"""When batches are formed, who is admitted, and who is hurt when a batch fails or a caller leaves."""

import asyncio
import queue
import threading

import numpy as np
import pytest

from service.engine.session import EngineError
from service.scoring.admission import Limits
from service.scoring.cost import CostModel
from service.scoring.errors import (
    DeadlineExceededError,
    EngineFailedError,
    NeverFitsError,
    QueueFullError,
)
from service.scoring.scorer import Item
from tests.service.doubles import fails, until
from tests.service.scoring.line import line_over


def items(count: int, name: str = "r") -> list[Item]:
    return [Item("p", f"{name}{place}") for place in range(count)]


async def test_an_idle_server_runs_a_request_at_once(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        scores = await line.submit(items(3))
        assert scores.raw == pytest.approx(line.right(items(3)), abs=1e-5)
        assert len(line.session.layouts) == 1


async def test_the_next_batch_is_planned_while_one_runs_and_no_third(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        requests = [line.submit(items(2, name)) for name in "ab"]
        for _ in requests:  # both are handed to the runner, which has ended neither
            await line.runner.submission()
        requests += [line.submit(items(2, name)) for name in "cde"]
        await line.queued(6)
        assert len(line.session.layouts) == 1
        with pytest.raises(queue.Empty):
            line.runner.submitted.get_nowait()
        line.session.let_go()
        for name, scores in zip("abcde", await asyncio.gather(*requests), strict=True):
            assert scores.raw == pytest.approx(line.right(items(2, name)), abs=1e-5)
        # What waited meanwhile went together, as soon as there was room.
        assert [len(layout.read_index) for layout in line.session.layouts] == [2, 2, 6]


async def test_a_request_larger_than_a_batch_is_split_and_put_together(pocket_bundle):
    async with line_over(pocket_bundle, Limits(1000, 10_000, batch_tokens=40)) as line:
        scores = await line.submit(items(50))
        assert scores.raw == pytest.approx(line.right(items(50)), abs=1e-5)
        assert len(line.session.layouts) > 2
        assert all(layout.tokens <= 40 for layout in line.session.layouts)


async def test_admission_by_items_is_whole_and_counts_nothing_twice(pocket_bundle):
    async with line_over(pocket_bundle, Limits(queue_items=10, queue_tokens=10_000, batch_tokens=8)) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        waiting = line.submit(items(6))
        await line.queued(6)
        with pytest.raises(QueueFullError, match="6 items are waiting, 5 more") as refused:
            await line.submit(items(5, "x"))
        assert refused.value.by == "queue_full"
        assert line.metric("assay_queue_samples") == 6
        more = line.submit(items(4, "y"))  # exactly what is left
        await line.queued(10)
        with pytest.raises(QueueFullError):
            await line.submit(items(1, "z"))
        line.session.let_go()
        for name, request in [("r", waiting), ("y", more)]:
            scores = await request
            assert scores.raw == pytest.approx(line.right(items(len(scores.items), name)), abs=1e-5)
        await asyncio.gather(*running)


async def test_places_are_held_while_a_request_is_tokenized(pocket_bundle):
    async with line_over(pocket_bundle, Limits(queue_items=10, queue_tokens=10_000, batch_tokens=4096)) as line:
        released = threading.Event()
        blockers = [line.executor.submit(released.wait, 10) for _ in range(2)]
        first = line.submit(items(6))
        await asyncio.sleep(0)  # it runs up to the tokenizer
        assert line.metric("assay_queue_samples") == 6
        with pytest.raises(QueueFullError):
            await line.submit(items(5, "x"))
        released.set()
        assert len((await first).items) == 6
        assert all(blocker.result() for blocker in blockers)


async def test_admission_by_tokens(pocket_bundle):
    # One item has 4 tokens around prompt and response: 3 + "p" + "r0" + ... = 7 the first, 2 more each other.
    async with line_over(pocket_bundle, Limits(queue_items=100, queue_tokens=30, batch_tokens=8)) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        waiting = line.submit(items(8))
        await line.queued(8)
        tokens = line.metric("assay_queue_tokens")
        assert 20 < tokens <= 30
        with pytest.raises(QueueFullError, match=f"{tokens:.0f} tokens are waiting") as refused:
            await line.submit(items(8, "x"))
        assert refused.value.by == "token_budget"
        assert line.metric("assay_queue_samples") == 8
        with pytest.raises(NeverFitsError, match="tokens"):
            await line.submit(items(20, "y"))
        line.session.let_go()
        assert len((await waiting).items) == 8
        await asyncio.gather(*running)


async def test_more_items_than_the_whole_queue_never_fit(pocket_bundle):
    async with line_over(pocket_bundle, Limits(queue_items=10, queue_tokens=10_000, batch_tokens=64)) as line:
        with pytest.raises(NeverFitsError, match="11 items"):
            await line.submit(items(11))


async def test_retry_after_is_what_waits_as_the_cost_model_predicts_it(pocket_bundle):
    limits = Limits(queue_items=20, queue_tokens=10_000, batch_tokens=64, batch_seconds=5.0)
    async with line_over(pocket_bundle, limits) as line:
        line.session.hold()
        assert line.scheduler.admission.retry_after() == 1.0  # nothing measured yet
        line.scheduler.use_cost_model(CostModel(fixed=0.5, per_token=0.25, per_cell=0.0))
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        waiting = line.submit(items(20))
        await line.queued(20)
        with pytest.raises(QueueFullError) as refused:
            await line.submit(items(1, "y"))
        seconds = 0.5 + 0.25 * line.metric("assay_queue_tokens")
        assert refused.value.retry_after == pytest.approx(seconds + 0.5 * (seconds // 5.0))
        line.session.let_go()
        await asyncio.gather(*running, waiting)


async def test_the_first_batch_sets_the_scale_of_a_model_that_was_not_measured(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        first = line.submit(items(1))
        layout = await line.session.batch()
        line.clock.now += 2.0
        line.session.release()
        await first
        running = [line.submit(items(1, name)) for name in "ab"]
        await line.session.batch()
        waiting = line.submit(items(1, "x"))  # of the same size as the first
        await line.queued(1)
        assert line.metric("assay_queue_tokens") == layout.tokens
        seconds = line.scheduler.admission.retry_after()
        assert seconds == pytest.approx(2.0, rel=0.01)  # but for the room in blocks
        line.session.let_go()
        await asyncio.gather(*running, waiting)


async def test_retry_after_has_bounds(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        request = line.submit(items(1))
        await line.session.batch()
        line.clock.now += 1e6
        line.session.let_go()
        await request
        assert line.scheduler.admission.retry_after() == 0.1  # nothing waits
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in range(3):
            await line.runner.submission()
        waiting = line.submit(items(9))
        await line.queued(9)
        assert line.scheduler.admission.retry_after() == 60.0
        line.session.let_go()
        await asyncio.gather(*running, waiting)


async def test_a_request_that_expired_in_the_queue_is_never_computed(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        late = line.submit(items(2, "late"), deadline=line.clock.now + 30)
        timely = line.submit(items(2, "timely"), deadline=line.clock.now + 90)
        await line.queued(4)
        line.clock.now += 30
        line.session.let_go()
        with pytest.raises(DeadlineExceededError, match="waited"):
            await late
        assert (await timely).raw == pytest.approx(line.right(items(2, "timely")), abs=1e-5)
        assert sum(len(layout.read_index) for layout in line.session.layouts) == 4
        await asyncio.gather(*running)
        assert line.metric("assay_samples_total", model="pocket", outcome="expired") == 2


@pytest.mark.parametrize("count", [1, 60])
async def test_a_deadline_during_the_batch_is_kept_without_waiting_for_the_batch(pocket_bundle, count):
    async with line_over(pocket_bundle, Limits(1000, 100_000, batch_tokens=40)) as line:
        line.session.hold()
        with pytest.raises(DeadlineExceededError):
            await line.submit(items(count), deadline=line.clock.now + 0.05)
        assert line.metric("assay_queue_samples") == line.metric("assay_queue_tokens") == 0
        line.session.let_go()
        assert (await line.submit(items(3))).raw == pytest.approx(line.right(items(3)), abs=1e-5)


async def test_a_deadline_during_tokenizing_is_kept_without_waiting_for_it(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        released = threading.Event()
        blockers = [line.executor.submit(released.wait, 10) for _ in range(2)]
        with pytest.raises(DeadlineExceededError):
            await line.submit(items(3), deadline=line.clock.now + 0.02)
        assert line.metric("assay_queue_samples") == 0
        released.set()
        assert all(blocker.result() for blocker in blockers)
        assert line.session.layouts == []


async def test_a_deadline_that_has_passed_already(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        with pytest.raises(DeadlineExceededError):
            await line.submit(items(1), deadline=line.clock.now - 1)
        assert line.session.layouts == []


async def test_a_caller_who_leaves_takes_what_waits_along_and_hurts_nobody(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        before, leaver, after = (line.submit(items(3, name)) for name in ("before", "leaver", "after"))
        await line.queued(9)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert line.metric("assay_queue_samples") == 6
        line.session.let_go()
        assert (await before).raw == pytest.approx(line.right(items(3, "before")), abs=1e-5)
        assert (await after).raw == pytest.approx(line.right(items(3, "after")), abs=1e-5)
        assert sum(len(layout.read_index) for layout in line.session.layouts) == 8
        assert line.metric("assay_samples_total", model="pocket", outcome="cancelled") == 3
        await asyncio.gather(*running)


async def test_leaving_while_the_batch_runs_hurts_no_batch_mate(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        stayer, leaver = line.submit(items(3, "stayer")), line.submit(items(3, "leaver"))
        await line.queued(6)
        layout = await line.session.batch()
        for _ in running:
            line.session.release()
            layout = await line.session.batch()
        assert len(layout.read_index) == 6  # both are in the batch that runs
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        line.session.let_go()
        assert (await stayer).raw == pytest.approx(line.right(items(3, "stayer")), abs=1e-5)
        await asyncio.gather(*running)


async def test_leaving_while_the_rest_of_a_split_request_waits(pocket_bundle):
    async with line_over(pocket_bundle, Limits(1000, 100_000, batch_tokens=40)) as line:
        line.session.hold()
        leaver = line.submit(items(60))
        for _ in range(2):
            await line.runner.submission()
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert line.metric("assay_queue_samples") == line.metric("assay_queue_tokens") == 0
        line.session.let_go()
        assert (await line.submit(items(3))).raw == pytest.approx(line.right(items(3)), abs=1e-5)
        assert len(line.session.layouts) == 2  # the second batch of the leaver was taken back before it ran


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
        line.session.then(lambda rewards: rewards, step)
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
        assert line.metric("assay_engine_errors_total", kind="runtime") == 1
        assert line.metric("assay_samples_total", model="pocket", outcome="error") == 2


async def test_the_rest_of_a_split_request_is_not_computed_after_a_failure(pocket_bundle):
    async with line_over(pocket_bundle, Limits(1000, 100_000, batch_tokens=40)) as line:
        line.session.then(fails(EngineError("broken")))
        with pytest.raises(EngineFailedError):
            await line.submit(items(200))
        assert line.metric("assay_queue_samples") == 0
        assert (await line.submit(items(3))).raw == pytest.approx(line.right(items(3)), abs=1e-5)
        assert len(line.session.layouts) <= 3


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


async def test_gauges_show_the_queue_as_it_is(pocket_bundle):
    async with line_over(pocket_bundle, Limits(queue_items=10, queue_tokens=1000, batch_tokens=4096)) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        waiting = line.submit(items(5))
        await line.queued(5)
        line.clock.now += 12
        assert line.metric("assay_inflight_samples") == 2
        assert line.metric("assay_queue_oldest_age_seconds") == 12
        assert line.metric("assay_saturation_ratio") == 0.5
        assert line.metric("assay_queue_limit_samples") == 10
        line.session.let_go()
        await asyncio.gather(*running, waiting)
        assert line.metric("assay_queue_oldest_age_seconds") == 0
        assert line.metric("assay_saturation_ratio") == 0


async def test_what_a_request_took_is_reported(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        first = line.submit(items(1, "a"))
        await line.session.batch()
        second = line.submit(items(2, "b"))
        await line.runner.submission()
        await line.runner.submission()
        line.clock.now += 3
        line.session.release()
        assert (await first).infer_seconds == 3
        await line.session.batch()
        line.clock.now += 4
        line.session.release()
        scores = await second
        assert scores.queue_seconds == 3
        assert scores.infer_seconds == 4
        assert scores.computed_tokens == line.session.layouts[1].tokens
        line.session.let_go()


async def test_equal_items_of_several_requests_are_computed_once_waiting_or_running(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        shared = [line.submit([*items(2, "x"), Item("p", str(who))]) for who in range(3)]
        await line.queued(9)  # each request has its places, whoever computes its items
        again = line.submit([*items(1, "a"), *items(1, "b")])  # one runs and one is planned
        await line.queued(11)
        line.session.let_go()
        for who, request in enumerate(shared):
            scores = await request
            assert scores.raw == pytest.approx(line.right([*items(2, "x"), Item("p", str(who))]), abs=1e-5)
        assert (await again).raw == pytest.approx(line.right([*items(1, "a"), *items(1, "b")]), abs=1e-5)
        assert (await again).computed_tokens == 0
        assert sum(len(layout.read_index) for layout in line.session.layouts) == 2 + 2 + 3
        await asyncio.gather(*running)
        total = line.metric("assay_tokens_total", kind="real") + line.metric("assay_tokens_total", kind="shared")
        assert total == line.metric("assay_input_tokens_sum")


@pytest.mark.parametrize("while_running", [False, True])
async def test_one_who_leaves_does_not_take_the_items_of_another(pocket_bundle, while_running):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        if not while_running:
            running = [line.submit(items(1, name)) for name in "ab"]
            for _ in running:
                await line.runner.submission()
        leaver = line.submit(items(3))
        if while_running:
            running = []
            await line.runner.submission()
        else:
            await line.queued(3)
        stayer = line.submit(items(3))
        await line.queued(3 if while_running else 6)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert line.metric("assay_queue_samples") == 3
        line.session.let_go()
        assert (await stayer).raw == pytest.approx(line.right(items(3)), abs=1e-5)
        assert sum(len(layout.read_index) for layout in line.session.layouts) == len(running) + 3
        await asyncio.gather(*running)


async def test_a_batch_that_nobody_waits_for_any_more_is_taken_back_and_its_items_can_be_asked_for_again(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        running = line.submit(items(1, "a"))
        await line.runner.submission()
        leaver = line.submit(items(2))
        await line.runner.submission()
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        again = line.submit(items(2))
        await line.runner.submission()
        line.session.let_go()
        assert (await again).raw == pytest.approx(line.right(items(2)), abs=1e-5)
        assert len(line.session.layouts) == 2
        await running


async def test_a_failed_batch_fails_all_who_wait_for_its_items_and_leaves_their_others_to_others(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        line.session.then(fails(EngineError("broken")))
        first = line.submit(items(1, "a"))
        await line.runner.submission()
        second = line.submit(items(1, "b"))
        await line.runner.submission()
        both = line.submit([*items(1, "a"), *items(1, "c")])
        other = line.submit(items(1, "c"))
        await line.queued(3)
        line.session.let_go()
        for victim in first, both:
            with pytest.raises(EngineFailedError, match="broken"):
                await victim
        for name, request in [("b", second), ("c", other)]:
            assert (await request).raw == pytest.approx(line.right(items(1, name)), abs=1e-5)


async def test_single_items_that_share_a_prefix_are_computed_together_whichever_request_they_came_in(pocket_bundle):
    prompt = "a prompt of some length "
    async with line_over(pocket_bundle, Limits(1000, 10_000, batch_tokens=64)) as line:
        line.session.hold()
        running = [line.submit(items(1, name)) for name in "ab"]
        for _ in running:
            await line.runner.submission()
        asked = [[Item(f"{group}{prompt}", str(place))] for place in range(4) for group in "xyz"]
        requests = [line.submit(request) for request in asked]
        await line.queued(12)
        line.session.let_go()
        for request, scores in zip(asked, await asyncio.gather(*requests), strict=True):
            assert scores.raw == pytest.approx(line.right(request), abs=1e-5)
        # Three prompts of 27 tokens do not fit one batch, two do not quite either: each comes with all its responses.
        assert [len(layout.read_index) for layout in line.session.layouts] == [1, 1, 4, 4, 4]
        await asyncio.gather(*running)


async def test_a_request_whose_caller_leaves_while_it_waits_for_the_tokenizer_is_never_tokenized(
    pocket_bundle, monkeypatch
):
    seen: list[object] = []
    encode = pocket_bundle.formatter.encode
    monkeypatch.setattr(
        pocket_bundle.formatter, "encode", lambda prompt, *rest: seen.append(prompt) or encode(prompt, *rest)
    )
    async with line_over(pocket_bundle) as line:
        released = threading.Event()
        blockers = [line.executor.submit(released.wait, 10) for _ in range(2)]
        leaver = line.submit(items(3))
        late = line.submit(items(3), deadline=line.clock.now + 0.02)
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        with pytest.raises(DeadlineExceededError):
            await late
        released.set()
        assert all(blocker.result() for blocker in blockers)
        assert len((await line.submit([Item("q", "r")])).raw) == 1
        assert seen == ["q"]


async def test_a_request_whose_caller_leaves_during_tokenizing_is_tokenized_no_further(pocket_bundle, monkeypatch):
    seen: list[object] = []
    entered, released = threading.Event(), threading.Event()
    encode = pocket_bundle.formatter.encode

    def slow(prompt, *rest):
        seen.append(prompt)
        entered.set()
        assert released.wait(10)
        return encode(prompt, *rest)

    monkeypatch.setattr(pocket_bundle.formatter, "encode", slow)
    async with line_over(pocket_bundle) as line:
        leaver = line.submit([Item("p", "r"), Item("q", "r")])
        await asyncio.to_thread(entered.wait, 10)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        released.set()
        assert len((await line.submit([Item("z", "r")])).raw) == 1
        assert seen == ["p", "z"]
