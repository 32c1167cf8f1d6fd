"""The client against a real server on the loopback interface."""

import asyncio
import gc
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

import assay_client as assay
from assay_client import AsyncRewardClient


def texts(count: int) -> list[str]:
    return [f"response-{i}" for i in range(count)]


def numbers(count: int) -> tuple[float, ...]:
    return tuple(float(i) for i in range(count))


async def test_scores_with_all_that_comes_with_them(server: Any) -> None:
    async with AsyncRewardClient(server.url, api_key="k") as client:
        scores = await client.score("p", ["x-2", "x--1"], scale="centred", truncate="prompt_left", allow_empty=True)
    assert (scores.scores, list(scores), len(scores), scores[1], scores[:1]) == (
        (2, -1),
        [2, -1],
        2,
        -1,
        (2,),
    )
    assert (scores.model.digest, scores.scale, scores.usage.items) == ("sha256:one", "centred", 2)
    assert scores.details[0].tokens == 3 and scores.timing.queue_ms == 1.5
    (seen,) = server.seen
    assert seen.headers["Authorization"] == "Bearer k" and seen.headers["X-Assay-Attempt"] == "1"
    assert 0 < seen.body.pop("timeout_ms") <= 120_000
    assert seen.body == {
        "prompt": "p",
        "responses": ["x-2", "x--1"],
        "scale": "centred",
        "truncate": "prompt_left",
        "allow_empty": True,
    }


async def test_compare_rank_and_model(server: Any) -> None:
    async with AsyncRewardClient(server.url) as client:
        compared = await client.compare([("p", "x-1", "x-0"), ("p", "x-1", "x-1"), ("p", "x-0", "x-1")])
        ranking = await client.rank([{"role": "user", "content": "hi"}], ["x-1", "x-3", "x-2"])
        info = await client.model()
    assert [c.preferred for c in compared] == ["a", "tie", "b"]
    assert (compared[0].margin, compared[2].score_b, len(compared.details)) == (1.0, 1.0, 6)
    assert ranking.order == (1, 2, 0) and ranking.scores == (1, 3, 2)
    assert info.document["family"] == "causal" and info.limits.items_per_request == 64


async def test_a_large_call_is_split_by_items_and_gathered_in_order(server: Any) -> None:
    server.limits = {"body_bytes": 100_000, "items_per_request": 10, "queue_items": 7}

    async def later_parts_first(body: dict[str, Any]) -> Any:
        await asyncio.sleep(0.05 if body["responses"][0] == "response-0" else 0)
        return server.answer("/v1/score", body)

    server.always = lambda request, body: later_parts_first(body)
    async with AsyncRewardClient(server.url, max_concurrency=3) as client:
        scores = await client.score("p", texts(40))
        assert (await client.score("p", texts(3))).scores == numbers(3)
    assert scores.scores == numbers(40)
    assert [len(seen.body["responses"]) for seen in server.seen][:5] == [7] * 5
    assert (scores.usage.items, scores.timing.total_ms, len(scores.details)) == (40, 5.0, 40)
    assert 1 < server.most_in_flight <= 3
    assert server.model_questions == 1
    assert len({seen.headers["X-Request-Id"] for seen in server.seen}) == len(server.seen)


async def test_a_large_call_is_split_by_bytes(server: Any) -> None:
    server.limits["body_bytes"] = 1000
    server.always = lambda request, body: (
        server.refuse(413, "body_too_large")(request, body)
        if request.content_length > 1000
        else server.answer(request.path, body)
    )
    pairs = [("é" * 50, f"{'y' * (i * 5)}-{i}") for i in range(40)]
    async with AsyncRewardClient(server.url) as client:
        assert (await client.score_pairs(pairs)).scores == numbers(40)
        with pytest.raises(assay.TooLargeError) as caught:
            await client.score_pairs([("p", "x-1"), ("p", "x" * 1000)])
        assert caught.value.field == "pairs.1"
    assert len(server.seen) > 5


async def test_comparisons_are_split_by_texts_and_rankings_never(server: Any) -> None:
    server.limits["items_per_request"] = 5
    async with AsyncRewardClient(server.url, max_items=4) as client:
        compared = await client.compare([("p", f"x-{i}", "x-0") for i in range(5)])
        assert [c.score_a for c in compared] == [0, 1, 2, 3, 4]
        assert [len(seen.body["comparisons"]) for seen in server.seen] == [2, 2, 1]
        with pytest.raises(assay.TooLargeError, match="5 responses"):
            await client.rank("p", texts(5))
    assert len(server.seen) == 3


async def test_a_part_that_never_fits_is_halved_and_limits_are_asked_again(server: Any) -> None:
    def at_most_two(request: Any, body: dict[str, Any]) -> Any:
        refused = len(body["responses"]) > 2
        step = server.refuse(413, "too_many_items", field="responses") if refused else None
        return step(request, body) if step else server.answer("/v1/score", body)

    server.limits["items_per_request"] = 7
    server.always = at_most_two
    async with AsyncRewardClient(server.url) as client:
        scores = await client.score("p", texts(10))
        assert scores.scores == numbers(10) and scores.usage.items == 10
        assert len({seen.headers["X-Request-Id"] for seen in server.seen}) == len(server.seen)
        # 7: 3 (1, 2), 4 (2, 2); 3: 1, 2. None was sent twice, none was attempted again.
        assert sorted(len(seen.body["responses"]) for seen in server.seen) == [1, 1, 2, 2, 2, 2, 3, 3, 4, 7]
        assert {seen.headers["X-Assay-Attempt"] for seen in server.seen} == {"1"}
        server.seen.clear()
        server.limits["items_per_request"] = 2
        await client.score("p", texts(4))
        assert [len(seen.body["responses"]) for seen in server.seen] == [2, 2]
    assert server.model_questions == 2


async def test_an_item_at_fault_within_a_half_is_named_for_the_caller(server: Any) -> None:
    def step(request: Any, body: dict[str, Any]) -> Any:
        if len(body["responses"]) > 2:
            return server.refuse(413, "too_many_items")(request, body)
        if "response-5" in body["responses"]:
            return server.refuse(422, "too_many_tokens", field="responses.1")(request, body)
        return server.answer("/v1/score", body)

    server.always = step
    async with AsyncRewardClient(server.url) as client:
        with pytest.raises(assay.TooLargeError) as caught:
            await client.score("p", texts(8))
    assert (caught.value.field, caught.value.code) == ("responses.5", "too_many_tokens")


async def test_what_cannot_be_halved_is_too_large(server: Any) -> None:
    server.always = server.refuse(413, "too_many_items")
    async with AsyncRewardClient(server.url) as client:
        for call in client.score("p", texts(1)), client.rank("p", texts(8)), client.compare([("p", "x-1", "x-2")]):
            server.seen.clear()
            with pytest.raises(assay.TooLargeError):
                await call
            assert len(server.seen) == 1


async def test_a_part_fits_the_queue_in_tokens_however_long_its_items_are(server: Any) -> None:
    server.limits |= {"queue_items": 100, "queue_tokens": 350, "tokens_per_item": 50}
    async with AsyncRewardClient(server.url) as client:
        assert (await client.score("p", texts(20))).scores == numbers(20)
        assert [len(seen.body["responses"]) for seen in server.seen] == [7, 7, 6]
        assert (await client.rank("p", texts(20))).scores == numbers(20)  # The server may find it short enough.


async def test_concurrent_first_calls_ask_for_limits_once(server: Any) -> None:
    async with AsyncRewardClient(server.url) as client:
        results = await asyncio.gather(*(client.score("p", [f"x-{i}"]) for i in range(50)))
    assert [result[0] for result in results] == list(range(50))
    assert server.model_questions == 1


@pytest.mark.parametrize("text", ["NaN", "null", '"1.0"', "true", "1e999"])
async def test_what_is_no_score_raises_and_is_not_asked_for_again(server: Any, text: str) -> None:
    def step(request: Any, body: dict[str, Any]) -> Any:
        reply = json.dumps(server.answer("/v1/score", body)).replace("[7.0]", f"[{text}]")
        return web.Response(text=reply, content_type="application/json")

    server.always = step
    async with AsyncRewardClient(server.url) as client:
        with pytest.raises((assay.BadReplyError, assay.NonFiniteScoreError)) as caught:
            await client.score("p", ["x-7"])
    assert len(server.seen) == caught.value.attempts == 1
    assert caught.value.request_id is not None and caught.value.field == "scores.0"


async def test_a_wrong_count_raises(server: Any) -> None:
    server.always = lambda request, body: server.answer("/v1/score", {"responses": ["x-1"]})
    async with AsyncRewardClient(server.url) as client:
        with pytest.raises(assay.BadReplyError, match="1 entries where 2 belong"):
            await client.score("p", texts(2))


async def test_a_model_that_moves_between_parts_raises(server: Any) -> None:
    server.limits["items_per_request"] = 2
    server.always = lambda request, body: server.answer(
        "/v1/score", body, "two" if "response-2" in body["responses"] else "one"
    )
    async with AsyncRewardClient(server.url) as client:
        with pytest.raises(assay.ModelMismatchError):
            await client.score("p", texts(6))


async def test_the_pin_is_sent_and_checked_even_if_the_server_does_not(server: Any) -> None:
    async with AsyncRewardClient(server.url, model_digest="sha256:one") as client:
        await client.score("p", texts(2))
        assert server.seen[0].body["model_digest"] == "sha256:one"
        server.always = lambda request, body: server.answer("/v1/score", body, "sha256:two")
        with pytest.raises(assay.ModelMismatchError, match="sha256:two"):
            await client.score("p", texts(2))
    async with AsyncRewardClient(server.url, model_digest="sha256:other") as client:
        with pytest.raises(assay.ModelMismatchError):
            await client.score("p", texts(2))
    assert len(server.seen) == 2


async def test_the_key_stays_out_of_logs_and_errors(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = [server.refuse(503, "not_ready"), server.reset]
    async with AsyncRewardClient(server.url, api_key="s3cret") as client:
        await client.score("p", ["x-1"])
        server.always = server.refuse(401, "unauthorized")
        with pytest.raises(assay.UnauthorizedError) as caught:
            await client.score("p", ["x-1"])
    assert "attempt 2 of /v1/score failed" in caplog.text
    assert "s3cret" not in caplog.text + str(caught.value) + repr(caught.value) + repr(vars(caught.value))


async def test_a_server_that_speaks_no_http() -> None:
    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(garble, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    async with listener, AsyncRewardClient(f"http://{host}:{port}", api_key="s3cret", retries=0) as client:
        with pytest.raises(assay.BadReplyError, match="not valid HTTP") as caught:
            await client.model()
    assert caught.value.__cause__ is None and "s3cret" not in repr(caught.value)


async def test_wait_until_ready(server: Any) -> None:
    server.ready = [503, 503]
    async with AsyncRewardClient(server.url) as client:
        await client.wait_until_ready(10)
        assert server.ready == []
        server.ready = [404]
        with pytest.raises(assay.InvalidRequestError, match="base_url"):
            await client.wait_until_ready(10)
        server.ready = [503] * 1000
        with pytest.raises(assay.DeadlineExceededError) as caught:
            await client.wait_until_ready(0.3)
    assert isinstance(caught.value.__cause__, assay.UnavailableError)


async def test_wait_until_ready_before_the_server_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with AsyncRewardClient(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            with pytest.raises(assay.DeadlineExceededError) as caught:
                await client.wait_until_ready(0.3)
    assert isinstance(caught.value.__cause__, assay.ConnectionFailedError)
    assert caught.value.attempts > 1


def run_in_new_loop(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # A closed loop can no longer close its sockets.
def test_a_client_follows_its_user_into_another_loop(server: Any) -> None:
    client = AsyncRewardClient(server.url)
    for _ in range(2):
        assert run_in_new_loop(lambda: client.score("p", ["x-7"])).scores == (7.0,)
    run_in_new_loop(client.close)
    with pytest.raises(RuntimeError, match="closed"):
        run_in_new_loop(lambda: client.score("p", ["x-7"]))
    gc.collect()


async def test_two_running_loops_at_once_are_refused(server: Any) -> None:
    async with AsyncRewardClient(server.url) as client:
        await client.score("p", ["x-7"])
        with pytest.raises(RuntimeError, match="one event loop"):
            await asyncio.to_thread(run_in_new_loop, lambda: client.score("p", ["x-7"]))
        assert (await client.score("p", ["x-8"])).scores == (8.0,)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_every_call_has_a_deadline(timeout: float) -> None:
    async with AsyncRewardClient("http://127.0.0.1:9") as client:
        with pytest.raises(ValueError, match="timeout"):
            await client.score("p", ["x"], timeout=timeout)
