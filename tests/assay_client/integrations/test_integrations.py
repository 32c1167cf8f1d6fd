"""Reward functions in the signatures of TRL and verl, against a real server."""

import inspect

import pytest

from assay_client import AsyncRewardClient, InvalidRequestError, RewardClient
from assay_client.integrations.conversations import pair
from assay_client.integrations.trl import TrlReward, async_trl_reward
from assay_client.integrations.verl import compute_score
from tests.service.serving import serving

USER, OTHER = {"role": "user", "content": "Say hi."}, {"role": "user", "content": "Say no."}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


@pytest.fixture(scope="module")
def url(pocket_bundle):
    with serving(pocket_bundle) as served:
        yield f"http://127.0.0.1:{served.port}"


@pytest.fixture
def client(url):
    with RewardClient(url) as client:
        yield client


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("p", "c", ("p", "c")),
        ([USER], "c", ([USER], "c")),
        ("p", [assistant("c")], ("p", "c")),
        ([USER], [assistant("c")], ([USER], "c")),
        (
            [USER],
            [assistant("", tool_calls=[]), {"role": "tool", "content": "5"}, assistant("c")],
            ([USER, assistant(""), {"role": "tool", "content": "5"}], "c"),
        ),
        ("p", [assistant("a"), assistant("c")], ([{"role": "user", "content": "p"}, assistant("a")], "c")),
        ([USER | {"content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}], "c", ([USER], "c")),
        ([USER], [assistant(None)], ([USER], "")),
    ],
)
def test_what_is_scored_of_a_rollout(prompt, completion, expected):
    assert pair(prompt, completion) == expected


@pytest.mark.parametrize("completion", [[], [USER]])
def test_a_completion_without_a_response(completion):
    with pytest.raises(ValueError, match="must end in the assistant's"):
        pair("p", completion)


def test_pictures_are_not_dropped_without_a_word():
    picture = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    with pytest.raises(ValueError, match="more than text"):
        pair([picture], "A cat.")


def test_trl(client):
    reward = TrlReward(client, name="helpful")
    assert reward.__name__ == "helpful"
    right = list(client.score_pairs([("Say hi.", "Hi!"), ("Say no.", "No."), ("Say hi.", "Hey")]))
    texts = reward(["Say hi.", "Say no.", "Say hi."], ["Hi!", "No.", "Hey"], completion_ids=[[1]], trainer_state=None)
    chats = reward(
        prompts=[[USER], [OTHER], [USER]], completions=[[assistant("Hi!")], [assistant("No.")], [assistant("Hey")]]
    )
    assert texts == pytest.approx(right, abs=1e-6)
    assert chats == pytest.approx(right, abs=1e-6)
    assert reward([], []) == []


def test_trl_scores_a_completion_that_ended_at_once(client):
    (score,) = TrlReward(client)(["Say hi."], [""])
    assert score == pytest.approx(client.score("Say hi.", [""], allow_empty=True)[0])


def test_trl_fails_loudly(client):
    with pytest.raises(InvalidRequestError):
        TrlReward(client)(["Say hi."], ["x" * 1000])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        TrlReward(client)(["a", "b"], ["c"])


async def test_trl_asynchronously(url):
    async with AsyncRewardClient(url) as client:
        reward = async_trl_reward(client, name="helpful")
        assert inspect.iscoroutinefunction(reward)  # what TRL looks at
        assert reward.__name__ == "helpful"
        right = list(await client.score_pairs([("Say hi.", "Hi!"), ("Say hi.", "No.")]))
        assert await reward(["Say hi."] * 2, ["Hi!", "No."]) == pytest.approx(right, abs=1e-6)


async def test_verl(url):
    async with AsyncRewardClient(url) as client:
        right = (await client.score("Say hi.", ["Hi!"]))[0]
    for prompt in ("Say hi.", [USER]):
        result = await compute_score("any", "Hi!", None, {"prompt": prompt, "num_turns": 1}, url=url, more=1)
        assert result == {"score": pytest.approx(right, abs=1e-6)}


async def test_verl_without_a_prompt(url):
    with pytest.raises(ValueError, match="extra_info has no 'prompt'"):
        await compute_score("any", "Hi!", None, {}, url=url)
