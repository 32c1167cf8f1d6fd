"""When batches are formed, and what is reported of them."""

import asyncio
import queue

import pytest

from service.engine.shapes import in_few_shapes, rounded
from service.scoring.admission import Limits
from service.scoring.items import Item
from tests.service.doubles import ScriptedSession
from tests.service.scoring.line import items, line_over


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


class Shaping(ScriptedSession):
    """Wants batches in few shapes."""

    def shaped(self, layout):
        return in_few_shapes(layout)


async def test_what_a_runtime_wants_added_is_planned_ahead_and_counted_as_padding(pocket_bundle):
    long = [Item("p", "r" * 37), Item("p", "s" * 40)]
    async with line_over(pocket_bundle, session=Shaping()) as line:
        assert (await line.submit(long)).raw == pytest.approx(line.right(long), abs=1e-5)
        (layout,) = line.session.layouts
        assert len(layout.input_ids) == rounded(layout.tokens) > layout.tokens
        assert line.metric("assay_tokens_total", kind="real") == layout.tokens
        assert line.metric("assay_tokens_total", kind="padding") == layout.padded_tokens > 0


async def test_the_peak_is_of_the_last_minute_and_of_what_still_waits(pocket_bundle):
    """A slow engine works off a burst for minutes in which nobody comes; an autoscaler must see that, too."""
    async with line_over(pocket_bundle) as line:
        line.session.hold()
        first = line.submit(items(3, "first"))
        await line.runner.submission()
        second = line.submit(items(4, "second"))
        await line.runner.submission()
        third = line.submit(items(5, "third"))
        await line.queued(5)
        assert line.metric("assay_peak_samples") == 12
        line.clock.now += 200
        assert line.metric("assay_peak_samples") == 12
        line.session.let_go()
        await asyncio.gather(first, second, third)
        assert line.metric("assay_queue_samples") == 0
        assert line.metric("assay_peak_samples") == 12
        line.clock.now += 62
        assert line.metric("assay_peak_samples") == 0
