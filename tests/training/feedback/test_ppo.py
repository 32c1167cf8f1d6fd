"""A policy learns what the served scores say, and nothing else; faults of the server meet it in mid-run."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from assay_client import ModelMismatchError
from assay_client.testing import FakeRewardServer
from tests.training.feedback.tiny_policy import save_policy
from training.feedback.config import PolicyConfig, PpoConfig, PromptsConfig, ProximalConfig, RewardConfig
from training.feedback.curves import read_curves
from training.feedback.ppo import run_ppo
from training.feedback.prompts import PromptError
from training.feedback.workers import WorkerError


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(24)))
    return str(path)


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    return str(save_policy(tmp_path / "policy"))


def config(url: str, train: str, backbone: str, run: Path, **more: Any) -> PpoConfig:
    settings: dict[str, Any] = {
        "run": run,
        "progress": False,
        "updates": 3,
        "responses": 16,
        "workers": 1,
        "prompts": PromptsConfig(train=train, held_out_count=8),
        "reward": RewardConfig(url=url, scale="raw", missing_end_penalty=0, timeout=60),
        "policy": PolicyConfig(backbone=backbone, max_new_tokens=8),
    }
    return PpoConfig(**settings | more)


def low_bytes(prompt: object, response: str) -> float:
    """More for bytes below 100: something that a policy of random weights can learn in a few updates."""
    known = response.encode()
    return sum(byte < 100 for byte in known) / max(1, len(known))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_score_rises_whatever_is_wanted(prompts, backbone, tmp_path, sign):
    with FakeRewardServer(lambda prompt, response: sign * low_bytes(prompt, response)) as server:
        learning = {"updates": 25, "responses": 64, "learning_rate": 1e-2, "kl_coefficient": 0.0}
        text = run_ppo(
            config(server.url, prompts, backbone, tmp_path / "run", **learning, ppo=ProximalConfig(minibatch=32))
        )
    rows = read_curves(tmp_path / "run")
    first, last = (sum(row.score for row in part) / 5 for part in (rows[:5], rows[-5:]))
    # The mean of 320 responses is known to 0.01; how much is learnt depends on how the processor rounds.
    assert last > first + 0.03, (first, last)
    held_out = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert held_out["kl"]["before"] == pytest.approx(0, abs=1e-4)
    assert held_out["kl"]["after"] > 0
    assert held_out["score"]["after"] > held_out["score"]["before"]
    assert "held-out prompts" in text


def test_rewards_are_what_the_server_said_over_two_workers(prompts, backbone, tmp_path):
    """Every score of the curves is a mean over all workers' responses, each scored once in each round."""
    with FakeRewardServer(low_bytes) as server, FakeRewardServer(lambda prompt, response: 5.0) as judge:
        asked = config(
            server.url, prompts, backbone, tmp_path / "run", workers=2,
            reward=RewardConfig(url=server.url, judge_url=judge.url, scale="raw", missing_end_penalty=0.25),
        )  # fmt: skip
        run_ppo(asked)
        texts = [pair["response"] for request in server.requests for pair in request.body["pairs"]]
    rows = read_curves(tmp_path / "run")
    assert len(texts) == 8 + 3 * 16 + 8
    mean = sum(low_bytes("", text) for text in texts[8:-8]) / 48
    assert sum(row.score for row in rows) / 3 == pytest.approx(mean, abs=1e-6)
    for row in rows:
        assert row.reward == pytest.approx(row.score - 0.25 * (1 - row.ended), abs=1e-6)
        assert row.judge == 5.0
    folder = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"adapter", "curves.jsonl", "curves.png", "feedback.json", "held_out.json", "samples.jsonl"} <= folder
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    note = json.loads((tmp_path / "run" / "feedback.json").read_text())
    assert note["reward_model"]["digest"] == server.digest
    assert len((tmp_path / "run" / "samples.jsonl").read_text().splitlines()) == 8


def test_equal_seeds_give_equal_runs(prompts, backbone, tmp_path):
    with FakeRewardServer(low_bytes) as server:
        for name in ("one", "two"):
            run_ppo(config(server.url, prompts, backbone, tmp_path / name))
    one, two = (read_curves(tmp_path / name) for name in ("one", "two"))
    assert [row.score for row in one] == [row.score for row in two]
    assert [row.entropy for row in one] == [row.entropy for row in two]


def test_a_server_that_goes_away_is_waited_for(prompts, backbone, tmp_path):
    calls, gone = 0, threading.Event()

    def restart() -> None:
        server.go_away()
        gone.set()
        server.come_back()

    def once_away(prompt: object, response: str) -> float:
        nonlocal calls
        calls += 1
        if calls == 30:  # in the second round, whose reply is then lost
            threading.Thread(target=restart).start()
            gone.wait(60)
        return low_bytes(prompt, response)

    with FakeRewardServer(once_away) as server:
        run_ppo(config(server.url, prompts, backbone, tmp_path / "run"))
    assert len(server.requests) > 1 + 3 + 1, "no call met the outage"
    assert [row.update for row in read_curves(tmp_path / "run")] == [1, 2, 3]


def test_workers_sample_apart(prompts, backbone, tmp_path):
    """A held-out question for each: with one seed for both, both would answer alike."""
    twice = tmp_path / "held_out.jsonl"
    twice.write_text("".join(json.dumps({"prompt": f"p{number}"}) + "\n" for number in range(2)))
    asked = PromptsConfig(train=prompts, held_out=str(twice))
    with FakeRewardServer(low_bytes) as server:
        run_ppo(config(server.url, prompts, backbone, tmp_path / "run", workers=2, updates=1, prompts=asked))
    first, second = (json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines())
    assert first["before"]["response"][:4] != second["before"]["response"][:4]


def test_nothing_left_to_learn_from_is_told(prompts, backbone, tmp_path):
    asked = PromptsConfig(train=prompts, held_out=prompts)
    with FakeRewardServer(low_bytes) as server:
        with pytest.raises(PromptError, match="nothing is left to learn from"):
            run_ppo(config(server.url, prompts, backbone, tmp_path / "run", prompts=asked))


@pytest.mark.parametrize("workers", [1, 2])
def test_another_model_ends_the_run_and_keeps_what_was_learnt(prompts, backbone, tmp_path, workers):
    calls = 0

    def soon_another(prompt: object, response: str) -> float:
        nonlocal calls
        calls += 1
        if calls >= 8 + 16:  # after the first round; the server asks from several threads
            server.digest = "1" * 64
        return low_bytes(prompt, response)

    with FakeRewardServer(soon_another) as server:
        with pytest.raises((ModelMismatchError, WorkerError), match="1111"):
            run_ppo(config(server.url, prompts, backbone, tmp_path / "run", workers=workers))
    rows = read_curves(tmp_path / "run")
    assert len(rows) <= 1
    assert not (tmp_path / "run" / "held_out.json").exists()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_folder_is_not_overwritten_unasked(prompts, backbone, tmp_path):
    with FakeRewardServer(low_bytes) as server:
        run = tmp_path / "run"
        run_ppo(config(server.url, prompts, backbone, run, updates=1))
        with pytest.raises(ValueError, match="holds a run already"):
            run_ppo(config(server.url, prompts, backbone, run, updates=1))
        run_ppo(config(server.url, prompts, backbone, run, updates=2, overwrite=True))
        assert len(read_curves(run)) == 2
        other = tmp_path / "other"
        other.mkdir()
        (other / "precious").write_text("")
        with pytest.raises(ValueError, match="not empty"):
            run_ppo(config(server.url, prompts, backbone, other, overwrite=True))
