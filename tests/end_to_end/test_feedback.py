"""A real server that is killed while a policy learns from it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from service.bundle.reader import Bundle
from tests.end_to_end.process import Process, command
from tests.pocket import write_pocket_bundle
from tests.training.feedback.tiny_policy import save_policy
from training.feedback.config import PolicyConfig, PpoConfig, PromptsConfig, RewardConfig
from training.feedback.curves import read_curves
from training.feedback.ppo import run_ppo
from training.feedback.workers import WorkerError


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


def config(tmp_path: Path, url: str) -> PpoConfig:
    """A run of two workers."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(24)))
    return PpoConfig(
        run=tmp_path / "run", progress=False, updates=30, responses=8, workers=2,
        prompts=PromptsConfig(train=str(path), held_out_count=4),
        reward=RewardConfig(url=url, scale="raw", timeout=120),
        policy=PolicyConfig(backbone=str(save_policy(tmp_path / "policy")), max_new_tokens=6),
    )  # fmt: skip


@contextmanager
def when_it_learns(run: Path, act: Callable[[], object]) -> Iterator[None]:
    """Act, in a thread, as soon as two updates are done."""

    def watch() -> None:
        curves, deadline = run / "curves.jsonl", time.monotonic() + 120
        while not (curves.is_file() and curves.read_text().count("\n") >= 2):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        act()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:  # so that it does nothing to the servers of another test
        watching.join()


@pytest.mark.parametrize("away_s", [1.0, pytest.param(20.0, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_and_comes_back_is_waited_for(pocket_bundle, tmp_path, start, away_s):
    server = start(pocket_bundle)

    def restart() -> None:
        server.kill()
        time.sleep(away_s)
        start(pocket_bundle)

    asked = config(tmp_path, server.url)
    with when_it_learns(asked.run, restart):
        run_ppo(asked)
    rows = read_curves(asked.run)
    assert [row.update for row in rows] == list(range(1, 31))
    pauses = [after.seconds - before.seconds for before, after in pairwise(rows)]
    assert max(pauses) > away_s, "it went on without a server"
    assert (asked.run / "held_out.json").is_file()


def test_a_server_that_comes_back_with_another_bundle_ends_the_run(pocket_bundle, tmp_path, start):
    server = start(pocket_bundle)
    other = write_pocket_bundle(tmp_path / "other", max_tokens=100)
    assert other.digest != pocket_bundle.digest

    def replace() -> None:
        server.kill()
        start(other)

    asked = config(tmp_path, server.url)
    with when_it_learns(asked.run, replace), pytest.raises(WorkerError, match=f"ModelMismatchError.*{other.digest}"):
        run_ppo(asked)
    assert 2 <= len(read_curves(asked.run)) < 30
    assert (asked.run / "adapter" / "adapter_model.safetensors").is_file()
    assert not (asked.run / "held_out.json").exists()
