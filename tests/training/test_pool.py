"""Processes of a pool end with the one that began them, however that ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from training.pool import available_cores, process_pool

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


def remember(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()


def test_work_is_done_in_processes_of_their_own(tmp_path: Path) -> None:
    with process_pool(remember, str(tmp_path)) as pool:
        found = set(pool.map(_square, range(20)))
    assert {square for square, _ in found} == {number**2 for number in range(20)}
    assert {process for _, process in found} <= {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    assert len(list(tmp_path.iterdir())) <= available_cores()


def _square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def test_an_error_drops_what_has_not_begun(tmp_path: Path) -> None:
    later: list[Future[None]] = []

    def fail() -> None:
        with process_pool(remember, str(tmp_path)) as pool:
            later.extend(pool.submit(time.sleep, 0.2) for _ in range(100))
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fail()
    assert sum(future.cancelled() for future in later) > 80


def test_they_end_when_they_are_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys, time; from tests.training.test_pool import remember; from training.pool import process_pool\n"
        "if __name__ == '__main__':\n"
        "    with process_pool(remember, sys.argv[1]) as pool:\n"
        "        pool.submit(time.sleep, 1000); time.sleep(1000)\n"
    )
    (tmp_path / "main.py").write_text(code)
    workers = tmp_path / "workers"
    workers.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(workers)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + PATIENCE
    while not list(workers.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    left = [int(path.name) for path in workers.iterdir()]
    while any(
        Path(f"/proc/{number}").exists() and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]
        for number in left
    ):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
