"""Who is admitted, and what those who are not are told."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from service.bundle.layout import Family
from service.scoring.admission import Admission, Limits
from service.scoring.cost import CostModel
from service.scoring.errors import NeverFitsError, QueueFullError
from service.scoring.pace import Pace
from service.scoring.waiting import WaitingLine, Work
from tests.service.doubles import Clock
from tests.service.scoring.line import items, line_over
from tests.service.scoring.sequences import distinct


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


PREDICTED = CostModel(fixed=0.0, per_token=0.1, per_cell=0.0)


async def busy(line, waiting: int) -> list[asyncio.Task]:
    """Two batches of one item run, and a request of so many items waits."""
    line.session.hold()
    line.scheduler.use_cost_model(PREDICTED)
    running = [line.submit(items(1, name)) for name in "ab"]
    for _ in running:
        await line.runner.submission()
    requests = [*running, line.submit(items(waiting, "w"))]
    await line.queued(waiting)
    return requests


async def test_a_request_that_would_be_late_is_refused_at_once(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        requests = await busy(line, 20)
        seconds = 0.1 * line.metric("assay_queue_tokens")
        with pytest.raises(QueueFullError, match="and then this request .* s, and it has 1.0 s") as refused:
            await line.submit(items(20, "x"), deadline=line.clock.now + 1)
        assert refused.value.by == "queue_time"
        assert 2 * seconds < refused.value.retry_after + 1 < 4 * seconds
        assert line.metric("assay_queue_samples") == 20  # it has left the line
        in_time = line.submit(items(20, "x"), deadline=line.clock.now + 100)
        await line.queued(40)
        line.session.let_go()
        await asyncio.gather(*requests, in_time)


async def test_a_small_request_goes_before_large_ones_and_is_not_refused_for_them(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        requests = await busy(line, 100)
        small = line.submit(items(1, "x"), deadline=line.clock.now + 6)  # what waits takes over 20 s
        await line.queued(101)
        line.session.let_go()
        await asyncio.gather(*requests, small)


async def test_where_nothing_else_waits_a_request_is_tried_whatever_is_predicted(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        line.scheduler.use_cost_model(CostModel(fixed=1000.0, per_token=1.0, per_cell=0.0))
        assert len((await line.submit(items(3), deadline=line.clock.now + 1)).items) == 3


def test_predictions_that_waiting_proves_too_short_are_stretched():
    line, pace = WaitingLine(Family.CAUSAL), Pace()
    pace.use(PREDICTED)
    admission = Admission(Limits(queue_items=1000, queue_tokens=10_000, batch_tokens=64), line, pace)
    line.join(distinct([np.arange(1000, 1050)]), 0.0, None, PREDICTED)  # 5 s

    clock = Clock()

    def arrive(within: float) -> Work:
        work = line.join(distinct([np.arange(2000, 2050)]), clock.now, clock.now + within, PREDICTED)
        try:
            admission.check_time(work, running_seconds=0.0, now=clock.now)
        finally:
            line.drop(work)
        return work

    def learn(lessons: int, seconds: float, done: bool) -> None:
        for _ in range(lessons):
            clock.now += 0.5
            admission.learn(arrive(within=1000.0), seconds, done)

    assert arrive(within=13.0).predicted == pytest.approx(10.0)
    with pytest.raises(QueueFullError):
        arrive(within=12.0)
    learn(100, 30.0, done=True)  # it takes three times what the batches are predicted to
    arrive(within=38.0)
    with pytest.raises(QueueFullError):
        arrive(within=33.0)
    learn(5, 20.0, done=False)  # that one was given up after 20 s says no more than that it takes longer
    with pytest.raises(QueueFullError):
        arrive(within=33.0)
    clock.now += 30
    learn(60, 1.0, done=True)  # a quick one says that it is over
    arrive(within=13.0)


def admission_behind(seconds: float, **options: Any) -> tuple[WaitingLine, Admission]:
    """What waits takes so long, in one request."""
    line, pace = WaitingLine(Family.CAUSAL), Pace()
    pace.use(PREDICTED)
    if seconds:
        line.join(distinct([np.arange(1000, 1000 + int(10 * seconds))]), 0.0, None, PREDICTED)
    return line, Admission(Limits(queue_items=10_000, queue_tokens=10**6, batch_tokens=64), line, pace, **options)


def test_what_adds_no_work_is_never_refused():
    """A request for what waits or runs already, as a retry after a lost connection is."""
    line, admission = admission_behind(10.0)
    for number in range(50):
        line.join(distinct([np.arange(5000 + 10 * number, 5003 + 10 * number)]), 0.0, None, PREDICTED)
    running = line.take([next(iter(next(line.by_age()).waiting)).key])
    for again in (running[0].sequence, np.arange(5000, 5003)):
        work = line.join(distinct([again]), 0.0, 0.1, PREDICTED)
        admission.check_time(work, running_seconds=9.0, now=0.0)


def test_work_stays_counted_when_the_one_who_brought_it_leaves():
    line, admission = admission_behind(10.0)
    second = line.join(distinct([np.arange(1000, 1100)]), 0.0, None, PREDICTED)
    line.drop(next(line.by_age()))
    assert line.seconds_up_to(second) + line.seconds_after(second) == pytest.approx(10.0)
    late = line.join(distinct([np.arange(3000, 3100)]), 0.0, 15.0, PREDICTED)
    with pytest.raises(QueueFullError):
        admission.check_time(late, running_seconds=0.0, now=0.0)


def test_what_a_request_shares_with_a_larger_one_is_before_it_and_its_peers():
    """It goes with the smallest that wait for it, and back to the larger when that one has left."""
    line, admission = admission_behind(0.0)
    texts = [np.arange(1000 * number, 1000 * number + 50) for number in range(1, 101)]
    line.join(distinct(texts), 0.0, None, PREDICTED)
    peer = line.join(distinct([np.arange(900, 990)]), 0.0, None, PREDICTED)
    before = line.seconds_up_to(peer)
    sharing = line.join(distinct([*texts[:2], np.arange(500, 510)]), 0.0, 5.0, PREDICTED)
    assert sharing.size == peer.size
    assert line.seconds_up_to(peer) == pytest.approx(before + 11.0)
    with pytest.raises(QueueFullError):
        admission.check_time(sharing, running_seconds=0.0, now=0.0)
    line.drop(sharing)
    assert line.seconds_up_to(peer) == pytest.approx(before)


@pytest.mark.parametrize("requests", [1, 50])
def test_lessons_of_one_moment_say_little_however_long_the_pause_before_them(requests):
    """Such as those of a process that was stopped for a while, with however many requests in flight."""
    line, admission = admission_behind(0.0)
    waiting = line.join(distinct([np.arange(7000, 7050)]), 0.0, None, PREDICTED)
    for moment in range(20):
        admission.learn(Work(float(moment), None, size=waiting.size, predicted=5.0), 5.0, done=True)
    for number in range(requests):
        came = 1000.0 + 0.001 * number
        admission.learn(Work(came, None, size=waiting.size, predicted=5.0), 500.0, done=True)
    now = 1500.1
    second = line.join(distinct([np.arange(2000, 2050)]), now, now + 2 * 1.25 * 10.0, PREDICTED)
    admission.check_time(second, running_seconds=0.0, now=now)


@pytest.mark.parametrize("own", [50, 2])
def test_what_was_learnt_is_forgotten_in_time(own):
    """Whom it refuses teaches nothing, and nor do those of short deadlines whom it lets in."""
    line, admission = admission_behind(5.0 if own == 50 else 0.0)
    for number in range(30):
        line.join(distinct([np.arange(5000 + 10 * number, 5003 + 10 * number)]), 0.0, None, PREDICTED)

    def refused(now: float) -> bool:
        work = line.join(distinct([np.arange(2000, 2000 + own)]), now, now + 1.5 * first.predicted, PREDICTED)
        try:
            admission.check_time(work, running_seconds=0.0, now=now)
        except QueueFullError:
            return True
        finally:
            line.drop(work)
        return False

    for now in range(50):
        first = line.join(distinct([np.arange(2000, 2000 + own)]), float(now), 1000.0, PREDICTED)
        admission.check_time(first, running_seconds=0.0, now=float(now))
        admission.learn(first, 8 * first.predicted, done=True)
        line.drop(first)
    learnt = first.admitted + 8 * first.predicted
    assert refused(learnt + 60)
    assert not refused(learnt + 180)
    admission.learn(Work(learnt + 170, None, size=first.size, predicted=10.0), 10.0, done=True)
    assert not refused(learnt + 181)  # a lesson that all is well does not bring back what was forgotten


def test_lone_requests_teach_that_the_line_moves_again():
    line, admission = admission_behind(0.0)
    now = 0.0
    for seconds in [80.0] * 50 + [5.0] * 100:
        lone = line.join(distinct([np.arange(2000, 2050)]), now, now + 1000.0, PREDICTED)
        admission.check_time(lone, running_seconds=0.0, now=now)
        assert lone.predicted == pytest.approx(5.0)
        admission.learn(lone, seconds, done=True)
        line.drop(lone)
        now += seconds
    line.join(distinct([np.arange(7000, 7050)]), now, None, PREDICTED)
    second = line.join(distinct([np.arange(2000, 2050)]), now, now + 13.0, PREDICTED)
    admission.check_time(second, running_seconds=0.0, now=now)


def test_a_text_that_begins_another_adds_no_negative_work():
    line, admission = admission_behind(0.0)
    model = CostModel(fixed=0.0, per_token=0.0001, per_cell=0.00001)
    line.join(distinct([np.arange(0, 4000)]), 0.0, None, model)
    work = line.join(distinct([np.arange(0, 2000)]), 0.0, 0.1, model)
    assert work.added == 0.0
    admission.check_time(work, running_seconds=9.0, now=0.0)


def test_what_adds_no_work_is_as_large_as_its_part_of_what_is_there():
    line, _ = admission_behind(20.0)
    small = [np.arange(5000 + 10 * n, 5003 + 10 * n) for n in range(100)]
    bulk = line.join(distinct(small), 0.0, None, PREDICTED)
    again, part = (line.join(distinct(texts), 0.0, None, PREDICTED) for texts in (small, small[:1]))
    assert again.size == bulk.size > 0
    assert part.size < 0
    mixed = line.join(distinct([*small, np.arange(9000, 9003)]), 0.0, None, PREDICTED)
    assert mixed.size == bulk.size  # one new item does not make it small
    assert mixed.added == pytest.approx(0.3)


def test_what_large_requests_learn_does_not_count_for_small_ones():
    line, admission = admission_behind(20.0)
    for now in range(100):
        large = line.join(distinct([np.arange(9000, 9200)]), float(now), 10_000.0, PREDICTED)
        admission.check_time(large, running_seconds=0.0, now=float(now))
        admission.learn(large, 400.0, done=True)
        line.drop(large)
    for number in range(20):
        line.join(distinct([np.arange(20_000 + 10 * number, 20_003 + 10 * number)]), 0.0, None, PREDICTED)
    small = line.join(distinct([np.arange(30_000, 30_003)]), 0.0, 12.0, PREDICTED)
    admission.check_time(small, running_seconds=0.0, now=0.0)


def test_where_requests_have_batches_of_their_own_each_costs_one():
    for apart, patience in ((False, 10.0), (True, 60.0)):
        line, admission = admission_behind(0.0, deterministic=apart)
        model = CostModel(fixed=0.1, per_token=0.0001, per_cell=0.0)
        admission._pace.use(model)
        for number in range(300):
            line.join(distinct([np.arange(5000 + 10 * number, 5003 + 10 * number)]), 0.0, None, model)
        last = line.join(distinct([np.arange(1, 4)]), 0.0, None, model)
        admission.check_time(last, running_seconds=0.0, now=0.0)
        assert (last.predicted > 30) == apart
        assert last.predicted < patience
        large = line.join(
            distinct([np.arange(40_000 + 10_000 * n, 49_000 + 10_000 * n) for n in range(3)]), 0.0, None, model
        )
        small = line.join(distinct([np.arange(31, 34)]), 0.0, None, model)
        admission.check_time(small, running_seconds=0.0, now=0.0)
        assert large.size > small.size
        assert small.predicted < patience  # larger ones go after it
