"""The fake server behaves as the real one does, as far as a client can tell."""

import json
import urllib.error
import urllib.request

import pytest

from assay_client import (
    AsyncRewardClient,
    InvalidRequestError,
    ModelMismatchError,
    NonFiniteScoreError,
    RewardClient,
    ServerError,
    UnavailableError,
)
from assay_client.testing import FakeRewardServer
from tests.end_to_end.process import server_process


def length(prompt: object, response: str) -> float:
    return float(len(response))


def test_scores_come_from_the_function_in_order_also_when_the_call_is_split():
    with FakeRewardServer(length, items_per_request=3) as server, RewardClient(server.url) as client:
        assert list(client.score("p", ["a" * n for n in range(1, 9)])) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [len(request.body["responses"]) for request in server.requests] == [3, 3, 2]
        assert list(client.score("p", ["a", "bb"], scale="probability"))[1] == pytest.approx(0.8808, abs=1e-4)


def test_every_operation_is_answered():
    with FakeRewardServer(length) as server, RewardClient(server.url) as client:
        compared = client.compare([("p", "aa", "b"), ("p", "a", "b")])
        assert [one.preferred for one in compared] == ["a", "tie"]
        ranked = client.rank("p", ["a", "ccc", "bb"])
        assert ranked.order == (1, 2, 0)
        assert ranked.win_probabilities[0][0] == 0.5
        assert client.model().limits.items_per_request == 256


async def test_it_can_be_called_from_a_running_loop():
    with FakeRewardServer(length) as server:
        async with AsyncRewardClient(server.url) as client:
            await client.wait_until_ready(10)
            assert list(await client.score("p", ["abc"])) == [3.0]


def test_refusals_are_given_once_each_and_retried_by_the_client():
    with FakeRewardServer(length) as server, RewardClient(server.url) as client:
        server.refuse(503, times=2)
        server.refuse(429)
        assert list(client.score("p", ["abc"])) == [3.0]
        assert len(server.requests) == 4
        with RewardClient(server.url, retries=0) as impatient:
            server.refuse(503, retry_after=1)
            with pytest.raises(UnavailableError) as caught:
                impatient.score("p", ["abc"])
        assert caught.value.retry_after_s == 1


def test_a_server_that_went_away_comes_back_at_the_same_address():
    with FakeRewardServer(length) as server, RewardClient(server.url) as client:
        client.score("p", ["a"])
        server.go_away()
        with RewardClient(server.url, retries=0) as impatient, pytest.raises(ConnectionError):
            impatient.score("p", ["a"])
        server.come_back()
        assert list(client.score("p", ["ab"])) == [2.0]


def test_another_model_is_refused_by_a_pinned_client():
    with FakeRewardServer(length) as server:
        with RewardClient(server.url, model_digest=server.digest) as client:
            assert list(client.score("p", ["a"])) == [1.0]
            server.serve(digest="1" * 64)
            with pytest.raises(ModelMismatchError):
                client.score("p", ["a"])


def test_what_the_real_server_refuses_is_refused():
    with FakeRewardServer(lambda prompt, response: float(response)) as server, RewardClient(server.url) as client:
        with pytest.raises(InvalidRequestError, match="empty"):
            client.score("p", [""])
        with pytest.raises(NonFiniteScoreError):
            client.score("p", ["nan"])
        with pytest.raises(ServerError, match="could not convert"):
            client.score("p", ["word"])


def test_outside_its_context_it_says_what_to_do():
    with pytest.raises(RuntimeError, match="context manager"):
        FakeRewardServer(length).go_away()


def test_replies_have_the_keys_of_the_real_servers(pocket_bundle, tmp_path):
    with server_process(pocket_bundle, tmp_path) as real, FakeRewardServer(length) as fake:
        for path, body in (
            ("/v1/score", {"prompt": "p", "responses": ["a", "b"]}),
            ("/v1/rank", {"prompt": "p", "responses": ["a", "b"]}),
            ("/v1/compare", {"comparisons": [{"prompt": "p", "response_a": "a", "response_b": "b"}]}),
            ("/v1/score", {"prompt": "p", "responses": ["a"], "model_digest": "1" * 64}),
            ("/v1/score", {"prompt": "p", "responses": [""]}),
        ):
            assert shape(post(fake.url + path, body)) == shape(post(real.url + path, body)), (path, body)


def post(url: str, body: object) -> tuple[int, object]:
    """Status and document of a reply; of an error its code and the names in its body."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        document = json.loads(error.read())
        return error.code, {"code": document["error"]["code"], "names": sorted(document["error"])}


def shape(reply: tuple[int, object]) -> object:
    return reply if reply[0] != 200 else keys(reply[1])


def keys(value: object) -> object:
    """The shape of a JSON value: names, not figures."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [keys(inner) for inner in value[:1]]
    return type(value).__name__ if isinstance(value, str | bool) else "number"
