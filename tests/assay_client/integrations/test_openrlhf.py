"""OpenRLHF's function file: what is sent is prompt and response apart, and nothing is guessed."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from assay_client.integrations import openrlhf
from assay_client.testing import FakeRewardServer

MESSAGES = [{"role": "user", "content": "Say hi."}]
RENDERED = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def server(monkeypatch):
    with FakeRewardServer(lambda prompt, response: float(len(response))) as server:
        monkeypatch.setenv("ASSAY_URL", server.url)
        yield server


@pytest.fixture
def reward_func(server):
    """Loaded as OpenRLHF loads it: by path, under a name of its own."""
    spec = importlib.util.spec_from_file_location("reward_func", openrlhf.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def sent(server):
    return [(pair["prompt"], pair["response"]) for request in server.requests for pair in request.body["pairs"]]


@pytest.mark.parametrize("label", [MESSAGES, json.dumps(MESSAGES), {"prompt": MESSAGES, "answer": 3}])
def test_the_label_holds_the_prompt(server, reward_func, label):
    assert reward_func([RENDERED + "Hi!<|im_end|>\n<|endoftext|>"], [RENDERED], [label]) == {
        "rewards": [3.0],
        "extra_logs": {"scored_tokens": [1]},
    }
    assert sent(server) == [(MESSAGES, "Hi!")]


@pytest.mark.parametrize("label", [None, "42", "[not JSON", {"answer": 3}, [1, 2], []])
def test_another_label_is_no_prompt(server, reward_func, label):
    assert reward_func(["Say hi. Hi!</s>"], ["Say hi. "], [label])["rewards"] == [3.0]
    assert sent(server) == [("Say hi. ", "Hi!")]
    with pytest.raises(ValueError, match="label_key"):
        reward_func([RENDERED + "Hi!"], [RENDERED], [label])


def test_a_response_that_cannot_be_told_is_not_scored(server, reward_func):
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        reward_func(["<s>a b"], ["a "], [None])
    assert server.requests == []


def test_empty_lists_and_empty_responses(server, reward_func):
    assert reward_func([], [], []) == {"rewards": [], "extra_logs": {}}
    assert reward_func(["a </s>"], ["a "], [None])["rewards"] == [0.0]


def test_it_is_called_from_many_threads(server, reward_func):
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda n: reward_func(["a " + "b" * n], ["a "], [None]), range(1, 65)))
    assert [reply["rewards"] for reply in replies] == [[float(n)] for n in range(1, 65)]
