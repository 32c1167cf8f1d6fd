"""Deadlines and callers who leave, at every stage."""

import asyncio
import threading

import pytest

from service.scoring import scorer
from service.scoring.admission import Limits
from service.scoring.errors import DeadlineExceededError
from service.scoring.scorer import Item
from tests.service.scoring.line import items, line_over


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
        await line.session.batch()  # the first one runs; until then it could be taken back too
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert line.metric("assay_queue_samples") == line.metric("assay_queue_tokens") == 0
        line.session.let_go()
        assert (await line.submit(items(3))).raw == pytest.approx(line.right(items(3)), abs=1e-5)
        assert len(line.session.layouts) == 2  # the second batch of the leaver was taken back before it ran


async def test_a_request_whose_caller_leaves_while_it_waits_for_the_tokenizer_is_never_tokenized(
    pocket_bundle, monkeypatch
):
    seen: list[object] = []
    encode = pocket_bundle.formatter.encode_parts
    monkeypatch.setattr(
        pocket_bundle.formatter, "encode_parts", lambda prompt, *rest: seen.append(prompt) or encode(prompt, *rest)
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
    encode = pocket_bundle.formatter.encode_parts

    def slow(prompt, *rest):
        seen.append(prompt)
        entered.set()
        assert released.wait(10)
        return encode(prompt, *rest)

    monkeypatch.setattr(pocket_bundle.formatter, "encode_parts", slow)
    monkeypatch.setattr(scorer, "PART_CHARS", 1)
    async with line_over(pocket_bundle) as line:
        leaver = line.submit([Item("p", "r"), Item("q", "r")])
        await asyncio.to_thread(entered.wait, 10)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        released.set()
        assert len((await line.submit([Item("z", "r")])).raw) == 1
        assert seen == ["p", "z"]
