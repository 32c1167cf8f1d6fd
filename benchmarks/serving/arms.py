"""Server processes that take turns: all are started, and those whose turn it is not are stopped by signal.

A stopped process (SIGSTOP, to its whole process group) uses no processor time, whatever its threads spin on, and keeps
its memory: no peer pays for another one's idling, and none starts cold in its round.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from benchmarks.server import free_port
from benchmarks.serving.models import PROJECT, ModelFolders
from benchmarks.serving.peers.base import Peer
from benchmarks.serving.peers.environments import FOLDER

START_SECONDS = 600.0
POLL_SECONDS = 0.25
LOGS = FOLDER / "logs"


@dataclass(frozen=True)
class Arm:
    """A peer that runs.

    Attributes:
        url: without a path.
        process: the leader of its process group.
    """

    peer: Peer
    url: str
    process: "subprocess.Popen[bytes]"

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run for as long as the context lasts."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


@contextlib.contextmanager
def started(peer: Peer, model: ModelFolders) -> Iterator[Arm]:
    """A ready server, stopped by signal until its first turn; ended at the end.

    Raises:
        RuntimeError: it ended or was not ready in `START_SECONDS`; the message ends with its log.
    """
    signal.signal(signal.SIGTERM, _leave)
    port = free_port()
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{peer.label.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            peer.command(model, port), stdout=output, stderr=subprocess.STDOUT, cwd=PROJECT, start_new_session=True,
            env={**_plain_environment(), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **peer.variables()},
        )  # fmt: skip
    arm = Arm(peer, f"http://127.0.0.1:{port}", process)
    try:
        try:
            _wait_until_ready(arm)
        except RuntimeError as error:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{peer.label}: {error}\n{tail}") from error
        os.killpg(process.pid, signal.SIGSTOP)
        yield arm
    finally:
        _end(process)


def served_precision(arm: Arm) -> str:
    """What Assay's server says it computes in."""
    with arm.turn(), urllib.request.urlopen(f"{arm.url}/v1/model", timeout=30) as reply:
        return str(json.load(reply)["precision"])


def _wait_until_ready(arm: Arm) -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        if (status := arm.process.poll()) is not None:
            raise RuntimeError(f"ended with status {status} before it was ready")
        try:
            with urllib.request.urlopen(f"{arm.url}{arm.peer.ready_path}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise RuntimeError(f"not ready within {START_SECONDS:g} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The group is continued first: a stopped process cannot act on SIGTERM."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(40)
    with contextlib.suppress(ProcessLookupError):  # children that outlived their parent
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _leave(*_: object) -> NoReturn:
    """On SIGTERM, leave through all contexts: stopped servers would stay behind for ever."""
    sys.exit(128 + signal.SIGTERM)


def _plain_environment() -> dict[str, str]:
    """Without what belongs to this process's own Python, and without settings of our server."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("ASSAY_")}
