"""Items that several requests wait for: computed once, failing once, and nobody takes them from another."""

import asyncio

import pytest

from service.engine.session import EngineError
from service.scoring.admission import Limits
from service.scoring.errors import EngineFailedError
from service.scoring.scorer import Item
from tests.service.doubles import fails
from tests.service.scoring.line import items, line_over


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
