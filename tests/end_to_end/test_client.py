"""The client package against a real server process."""

import asyncio
import contextlib
import random
import signal
import time

import aiohttp
import pytest
from aiohttp import web

from assay_client import (
    AsyncRewardClient,
    DeadlineExceededError,
    ModelMismatchError,
    OverloadedError,
    RewardClient,
    TooLargeError,
    UnauthorizedError,
)
from tests.end_to_end.process import server_process
from tests.pocket import pocket_reward

QUEUE_FULL = 'assay_requests_rejected_total{reason="queue_full"}'
TOO_MANY_ITEMS = 'assay_requests_rejected_total{reason="too_many_items"}'


@pytest.fixture(scope="module")
def server(pocket_bundle, tmp_path_factory):
    with server_process(pocket_bundle, tmp_path_factory.mktemp("server"), "--max-items", "100") as process:
        yield process


@pytest.fixture(scope="module")
def client(server):
    with RewardClient(server.url) as client:
        client.wait_until_ready(30)
        yield client


@pytest.fixture
def right(pocket_bundle):
    """The reward of a prompt with a response, computed from its tokens alone."""

    def right(prompt: str, response: str) -> float:
        (item,) = pocket_bundle.formatter.encode(prompt, [response])
        return pocket_reward(item.ids, pocket_bundle.manifest.family)

    return right


def test_scores_in_order(client, right, pocket_bundle):
    responses = [f"response {n}" for n in range(10)]
    scores = client.score("prompt", responses)
    assert list(scores) == pytest.approx([right("prompt", response) for response in responses], abs=1e-5)
    assert scores.model.digest == pocket_bundle.digest
    assert scores.usage.items == 10
    assert scores.usage.computed_tokens < scores.usage.tokens  # the prompt is computed once
    pairs = client.score_pairs([("prompt", response) for response in responses])
    assert list(pairs) == pytest.approx(list(scores), abs=1e-5)


def test_messages(client, right):
    assert list(client.score([{"role": "user", "content": "hi"}], ["a"])) == pytest.approx([right("hi", "a")], abs=1e-5)


def test_a_big_call_is_split_and_put_together(client, right):
    responses = [f"r{n}" for n in range(350)]
    assert list(client.score("p", responses)) == pytest.approx([right("p", text) for text in responses], abs=1e-5)
    comparisons = client.compare([("p", f"a{n}", f"b{n}") for n in range(120)])  # two items each, so in three parts
    assert [row.score_a for row in comparisons] == pytest.approx([right("p", f"a{n}") for n in range(120)], abs=1e-5)
    assert [row.score_b for row in comparisons] == pytest.approx([right("p", f"b{n}") for n in range(120)], abs=1e-5)
    with pytest.raises(TooLargeError):
        client.rank("p", responses)


def test_compare_and_rank(client, right):
    a, b = right("p", "good"), right("p", "bad")
    (comparison,) = client.compare([("p", "good", "bad")])
    assert comparison.margin == pytest.approx(a - b, abs=1e-5)
    assert comparison.preferred == ("a" if a > b else "b")
    assert (comparison.probability > 0.5) == (a > b)
    responses = ["one", "two", "three", "four"]
    ranking = client.rank("p", responses)
    assert list(ranking.order) == sorted(range(4), key=lambda place: -right("p", responses[place]))


def test_model(client, pocket_bundle):
    info = client.model()
    assert (info.model.name, info.model.digest) == ("pocket", pocket_bundle.digest)
    assert info.limits.items_per_request == 100
    assert info.limits.body_bytes == 16 * 2**20
    assert (info.limits.tokens_per_item, info.limits.queue_items) == (64, 8192)


def test_a_pinned_model(server, pocket_bundle):
    with RewardClient(server.url, model_digest=pocket_bundle.digest) as client:
        assert len(client.score("p", ["r"])) == 1
    with RewardClient(server.url, model_digest="0" * 64) as client:
        with pytest.raises(ModelMismatchError):
            client.score("p", ["r"])


def test_a_refusal_names_the_item_of_the_whole_call(client):
    responses = ["r"] * 250
    responses[222] = "x" * 100
    with pytest.raises(TooLargeError, match="limit of 64") as refused:
        client.score("p", responses)
    assert refused.value.field == "responses.222"
    assert refused.value.request_id


def test_sixteen_workers_get_what_they_would_get_alone(server, right):
    """What PPO workers do: at once, many responses to a prompt, again and again."""
    generator = random.Random(0)
    calls = [
        [(f"prompt {worker} {step}", [f"{generator.randrange(10**9)}" for _ in range(64)]) for step in range(3)]
        for worker in range(16)
    ]

    async def worker(client, steps):
        return [list(await client.score(prompt, responses)) for prompt, responses in steps]

    async def all_workers():
        async with AsyncRewardClient(server.url) as client:
            return await asyncio.gather(*(worker(client, steps) for steps in calls))

    for steps, got in zip(calls, asyncio.run(all_workers()), strict=True):
        for (prompt, responses), scores in zip(steps, got, strict=True):
            assert scores == pytest.approx([right(prompt, text) for text in responses], abs=1e-5)
    alone = RewardClient(server.url)
    prompt, responses = calls[7][1]
    with contextlib.closing(alone):
        one_by_one = [alone.score(prompt, [response])[0] for response in responses]
    assert one_by_one == pytest.approx([right(prompt, text) for text in responses], abs=1e-5)


def test_keys(pocket_bundle, tmp_path):
    with server_process(pocket_bundle, tmp_path, "--api-keys", "old, new") as server:
        for key in "old", "new":
            with RewardClient(server.url, api_key=key) as client:
                assert len(client.score("p", ["r"])) == 1
        for key in None, "wrong", "old, new":
            with RewardClient(server.url, api_key=key) as client:
                client.wait_until_ready(30)  # probes need no key
                with pytest.raises(UnauthorizedError):
                    client.score("p", ["r"])


@pytest.fixture(scope="module")
def held(pocket_bundle, tmp_path_factory):
    flags = ("--queue-items", "64", "--max-items", "64", "--max-batch-tokens", "64")
    scratch = tmp_path_factory.mktemp("held")
    with server_process(pocket_bundle, scratch, *flags, module="tests.end_to_end.held_server") as process:
        yield process


async def fill(server, client) -> list[asyncio.Task]:
    """Requests that fill the engine and the whole queue of a held server."""
    await client.model()
    server.hold()
    running = []
    for inflight in 1, 2:
        running.append(asyncio.ensure_future(client.score("p", [f"r{inflight}"])))
        await asyncio.to_thread(server.until_metric, "assay_inflight_samples", inflight)
    waiting = asyncio.ensure_future(client.score("p", [f"{n}" for n in range(64)]))
    await asyncio.to_thread(server.until_metric, "assay_queue_samples", 64)
    return [*running, waiting]


async def test_overload_is_refused_and_passes_by_retrying(held, right):
    async with AsyncRewardClient(held.url) as client, AsyncRewardClient(held.url, retries=0) as hasty:
        accepted = await fill(held, client)
        with pytest.raises(OverloadedError) as refused:
            await hasty.score("p", ["r"])
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert refused.value.retry_after_s > 0
        refusals = held.metric(QUEUE_FULL)
        patient = asyncio.ensure_future(client.score("p", ["late"]))
        await asyncio.to_thread(held.until_metric, QUEUE_FULL, refusals + 1)
        held.let_go()
        assert list(await patient) == pytest.approx([right("p", "late")], abs=1e-5)
        assert [len(scores) for scores in await asyncio.gather(*accepted)] == [1, 1, 64]


async def test_a_deadline_is_kept_and_the_work_is_dropped(held):
    async with AsyncRewardClient(held.url) as client:
        accepted = await fill(held, client)
        accepted[2].cancel()  # its connection closes, and with it goes what waited
        await asyncio.to_thread(held.until_metric, "assay_queue_samples", 0)
        with pytest.raises(DeadlineExceededError):
            await client.score("p", ["r"], timeout=0.3)
        await asyncio.to_thread(held.until_metric, "assay_queue_samples", 0)
        held.let_go()
        await asyncio.gather(*accepted[:2])
        assert len(await client.score("p", ["r"])) == 1


class Door:
    """Stands before a server and passes on; while shut it says to come back in a second.

    It opens half a second after it has refused `opens_after` requests.
    """

    def __init__(self, opens_after: int) -> None:
        self.opens_after = opens_after
        self.url = ""
        self.shut = False
        self.refused = 0

    @contextlib.asynccontextmanager
    async def before(self, server):
        async def pass_on(request):
            if self.shut:
                self.refused += 1
                if self.refused == self.opens_after:
                    asyncio.get_running_loop().call_later(0.5, setattr, self, "shut", False)
                return web.Response(status=503, headers={"Retry-After": "1"})
            async with inner.request(request.method, server.url + request.path, data=await request.read()) as reply:
                return web.Response(status=reply.status, body=await reply.read())

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app)
        async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as inner:
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                self.url = "http://{}:{}".format(*runner.addresses[0])
                yield self
            finally:
                await runner.cleanup()


async def test_a_hundred_calls_outlive_half_a_second_of_outage(server, right):
    async with Door(opens_after=100).before(server) as door, AsyncRewardClient(door.url, timeout=60) as client:
        await client.score("p", ["before"])
        door.shut = True
        start = time.monotonic()
        scores = await asyncio.gather(*(client.score("p", [f"late {n}"]) for n in range(100)))
        assert time.monotonic() - start < 30
        assert door.refused >= 100
    assert [row[0] for row in scores] == pytest.approx([right("p", f"late {n}") for n in range(100)], abs=1e-5)


async def test_calls_outlive_a_restart_with_smaller_limits(pocket_bundle, tmp_path, right):
    """Killed and begun anew on its port: refused meanwhile, and then parts that were legal are too long."""
    with contextlib.ExitStack() as servers:
        flags = "--max-items", "100"
        first = await asyncio.to_thread(servers.enter_context, server_process(pocket_bundle, tmp_path, *flags))
        async with AsyncRewardClient(first.url, timeout=60) as client:
            await client.score("p", ["r"])  # from now on it knows the limits
            first.signal(signal.SIGKILL)
            await asyncio.to_thread(first.ended)
            texts = [[f"{call} {n}" for n in range(30)] for call in range(20)]
            waiting = asyncio.gather(*(client.score("p", responses) for responses in texts))
            flags = "--max-items", "8", "--port", str(first.port)
            second = await asyncio.to_thread(servers.enter_context, server_process(pocket_bundle, tmp_path, *flags))
            scores = await waiting
            assert await asyncio.to_thread(second.metric, TOO_MANY_ITEMS) > 0
    for responses, got in zip(texts, scores, strict=True):
        assert list(got) == pytest.approx([right("p", text) for text in responses], abs=1e-5)


def test_parts_fit_the_queue_in_tokens(pocket_bundle, tmp_path, right):
    with (
        server_process(pocket_bundle, tmp_path, "--queue-tokens", "256", "--max-items", "4") as server,
        RewardClient(server.url) as client,
    ):
        responses = [f"{n}".ljust(40, "x") for n in range(30)]
        assert list(client.score("p", responses)) == pytest.approx([right("p", text) for text in responses], abs=1e-5)
        with pytest.raises(TooLargeError, match="4"):
            client.rank("p", responses)
        assert server.metric(TOO_MANY_ITEMS) == 0  # no part was refused, and the ranking was never sent
