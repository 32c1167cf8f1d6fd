"""TRL's trainer over a served reward: the files of a run, and scores that are the server's own."""

import json

import pytest

from assay_client import ModelMismatchError
from assay_client.testing import FakeRewardServer
from tests.training.feedback.tiny_policy import save_policy
from training.feedback.config import GroupConfig, GrpoConfig, PolicyConfig, PromptsConfig, RewardConfig
from training.feedback.curves import read_curves
from training.feedback.grpo import MissingEnd, run_grpo


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(24)))
    backbone = str(save_policy(tmp_path / "policy"))

    def build(url: str, judge: str | None = None) -> GrpoConfig:
        return GrpoConfig(
            run=tmp_path / "run", progress=False, updates=2, responses=8, grpo=GroupConfig(responses_per_prompt=4),
            prompts=PromptsConfig(train=str(path), held_out_count=8),
            reward=RewardConfig(url=url, judge_url=judge, scale="raw", missing_end_penalty=0.5),
            policy=PolicyConfig(backbone=backbone, max_new_tokens=8),
        )  # fmt: skip

    return build


def worth(prompt: object, response: str) -> float:
    return float(len(response))


def test_rewards_are_what_the_server_said(config, tmp_path):
    with FakeRewardServer(worth) as server, FakeRewardServer(lambda prompt, response: 5.0) as judge:
        text = run_grpo(config(server.url, judge.url))
        rounds = [[pair["response"] for pair in request.body["pairs"]] for request in server.requests]
    rows = read_curves(tmp_path / "run")
    assert [len(texts) for texts in rounds] == [8, 8, 8, 8]  # held out, two updates, held out
    for row, texts in zip(rows, rounds[1:-1], strict=True):
        assert row.score == pytest.approx(sum(map(len, texts)) / len(texts), abs=1e-4)
        assert row.reward == pytest.approx(row.score - 0.5 * (1 - row.ended), abs=1e-4)
        assert row.judge == 5.0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"adapter", "curves.jsonl", "curves.png", "feedback.json", "held_out.json", "samples.jsonl"} <= names
    assert "held-out prompts" in text


def test_fewer_prompts_than_an_update_takes_are_refused(config):
    """TRL would make no batch of them, learn nothing, and end as if all were well."""
    with FakeRewardServer(worth) as server:
        few = config(server.url)
        few = few.model_copy(update={"prompts": few.prompts.model_copy(update={"held_out_count": 23})})
        with pytest.raises(ValueError, match=r"1 prompts to learn from, and an update takes 2 \(responses over"):
            run_grpo(few)


def test_a_divergence_that_is_not_computed_is_none(config, tmp_path):
    with FakeRewardServer(worth) as server:
        run_grpo(config(server.url).model_copy(update={"kl_coefficient": 0.0}))
    assert [row.kl for row in read_curves(tmp_path / "run")] == [None, None]


def test_another_model_ends_the_run_and_keeps_the_adapter(config, tmp_path):
    scored = 0

    def soon_another(prompt: object, response: str) -> float:
        nonlocal scored
        scored += 1
        if scored == 16:  # the held-out prompts, and the first update
            server.digest = "1" * 64
        return worth(prompt, response)

    with FakeRewardServer(soon_another) as server:
        with pytest.raises(ModelMismatchError):
            run_grpo(config(server.url))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "run" / "held_out.json").exists()


def test_a_completion_without_its_end_is_penalised():
    assert MissingEnd([2, 7], 0.5)([[1, 2], [2, 1], [7], []]) == [0.0, -0.5, 0.0, -0.5]
