"""OpenRLHF's function: what is sent is prompt and response apart, and nothing is guessed."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from assay_client import RewardClient
from assay_client.integrations.openrlhf import OpenRlhfReward
from assay_client.testing import FakeRewardServer

MESSAGES = [{"role": "user", "content": "Say hi."}]
RENDERED = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def server():
    with FakeRewardServer(lambda prompt, response: float(len(response))) as server:
        yield server


@pytest.fixture
def client(server):
    with RewardClient(server.url) as client:
        yield client


def sent(server):
    return [(pair["prompt"], pair["response"]) for request in server.requests for pair in request.body["pairs"]]


@pytest.mark.parametrize("label", [MESSAGES, json.dumps(MESSAGES), {"prompt": MESSAGES, "answer": 3}])
def test_the_label_holds_the_prompt(server, client, label):
    found = OpenRlhfReward(client)([RENDERED + "Hi!<|im_end|>\n<|endoftext|>"], [RENDERED], [label])
    assert found == {"rewards": [3.0], "extra_logs": {"scored_tokens": [1]}}
    assert sent(server) == [(MESSAGES, "Hi!")]


@pytest.mark.parametrize("label", [None, "42", "[not JSON", {"answer": 3}, [1, 2], [], [{"role": "user"}]])
def test_another_label_is_no_prompt(server, client, label, caplog):
    with pytest.raises(ValueError, match="label_key"):
        OpenRlhfReward(client)([RENDERED + "Hi!"], [RENDERED], [label])
    assert "label_key" in caplog.text
    assert server.requests == []


def test_plain_prompts_are_sent_as_they_are(server, client):
    reward_func = OpenRlhfReward(client, plain_prompts=True)
    assert reward_func(["Say hi. Hi!</s>"], ["Say hi. "], ["42"])["rewards"] == [3.0]
    assert sent(server) == [("Say hi. ", "Hi!")]


@pytest.mark.parametrize(
    ("tail", "response"),
    [
        ("code\n", "code\n"),
        ("code\n<|im_end|>", "code\n"),
        ("a <|im_end|> \n <|pad|>", "a "),
        ("1 < 2 | 3 > 2", "1 < 2 | 3 > 2"),
        ("a<turn|>", "a"),
        ("<|im_end|>", ""),
    ],
)
def test_special_tokens_are_taken_off_and_nothing_else(server, client, tail, response):
    OpenRlhfReward(client, plain_prompts=True, end_tokens=("<turn|>",))(["p" + tail], ["p"], [None])
    assert sent(server) == [("p", response)]


def test_a_degenerate_response_takes_no_time(client):
    began = time.perf_counter()
    OpenRlhfReward(client, plain_prompts=True)(["p" + "x" + " " * 50_000 + "y"], ["p"], [None])
    assert time.perf_counter() - began < 5


def test_a_response_that_cannot_be_told_is_not_scored(server, client):
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        OpenRlhfReward(client, plain_prompts=True)(["<s>a b"], ["a "], [None])
    assert server.requests == []


def test_empty_lists_and_empty_responses(client):
    reward_func = OpenRlhfReward(client, plain_prompts=True)
    assert reward_func([], [], [])["rewards"] == []
    assert reward_func(["a </s>"], ["a "], [None])["rewards"] == [0.0]


def test_it_is_called_from_many_threads(client):
    reward_func = OpenRlhfReward(client, plain_prompts=True)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda n: reward_func(["a " + "b" * n], ["a "], [None]), range(1, 65)))
    assert [reply["rewards"] for reply in replies] == [[float(n)] for n in range(1, 65)]
