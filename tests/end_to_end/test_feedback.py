"""A real server that is killed while a policy learns from it."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay_client import ModelMismatchError
from service.bundle.reader import Bundle
from tests.end_to_end.process import Process, command
from tests.pocket import write_pocket_bundle
from tests.training.feedback.tiny_policy import save_policy
from training.feedback import ppo
from training.feedback.config import PolicyConfig, PpoConfig, PromptsConfig, RewardConfig
from training.feedback.curves import read_curves


@pytest.fixture
def port() -> int:
    """A port that a restarted server can have again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@pytest.fixture
def start(tmp_path: Path, port: int):
    """Start a server over a bundle on the port; all are gone at the end."""
    started: list[Process] = []

    def start(bundle: Bundle) -> Process:
        arguments = command(bundle)
        arguments[arguments.index("--port") + 1] = str(port)
        process = Process(arguments, tmp_path / f"server-{len(started)}.log", tmp_path / "gate")
        started.append(process)
        process.until("/ready", 200)
        return process

    yield start
    for process in started:
        process.kill()


def learn(tmp_path: Path, url: str, after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> PpoConfig:
    """Four updates of one worker; `after` is called with the number of each."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(24)))
    config = PpoConfig(
        run=tmp_path / "run", progress=False, updates=4, responses=8, workers=1,
        prompts=PromptsConfig(train=str(path), held_out_count=4),
        reward=RewardConfig(url=url, scale="raw", timeout=120),
        policy=PolicyConfig(backbone=str(save_policy(tmp_path / "policy")), max_new_tokens=6),
    )  # fmt: skip
    write = ppo.CurveWriter.write

    def written(self: ppo.CurveWriter, row: Any) -> None:
        write(self, row)
        after(row.update)

    monkeypatch.setattr(ppo.CurveWriter, "write", written)
    ppo.run_ppo(config)
    return config


@pytest.mark.parametrize("away_s", [1.0, pytest.param(20.0, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_and_comes_back_is_waited_for(pocket_bundle, tmp_path, start, monkeypatch, away_s):
    server = start(pocket_bundle)
    killed, back = threading.Event(), threading.Event()

    def restart() -> None:
        killed.wait(120)
        threading.Event().wait(away_s)
        start(pocket_bundle)
        back.set()

    def after(update: int) -> None:
        if update == 2:
            server.kill()
            killed.set()
        elif update == 3:
            assert back.is_set(), "this update's rewards came from nowhere"

    restarting = threading.Thread(target=restart)
    restarting.start()
    config = learn(tmp_path, server.url, after, monkeypatch)
    restarting.join()
    rows = read_curves(config.run)
    assert [row.update for row in rows] == [1, 2, 3, 4]
    assert rows[2].seconds - rows[1].seconds > away_s


def test_a_server_that_comes_back_with_another_bundle_ends_the_run(pocket_bundle, tmp_path, start, monkeypatch):
    server = start(pocket_bundle)
    other = write_pocket_bundle(tmp_path / "other", max_tokens=100)
    assert other.digest != pocket_bundle.digest

    def after(update: int) -> None:
        if update == 2:
            server.kill()
            start(other)

    with pytest.raises(ModelMismatchError, match=other.digest):
        learn(tmp_path, server.url, after, monkeypatch)
    assert [row.update for row in read_curves(tmp_path / "run")] == [1, 2]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "run" / "held_out.json").exists()
