"""The bare engine as an arm: a process that is asked over its standard input, and stopped when it is not its turn."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.serving.models import PROJECT, ModelFolders
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.rendering import Item


class EngineArm:
    """Asks the process of `engine_alone`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def score(self, items: Sequence[Item], batch_tokens: int) -> tuple[float, list[float]]:
        """Seconds of planning and running all items, and their scores.

        Raises:
            RuntimeError: the process ended.
        """
        os.kill(self._process.pid, signal.SIGCONT)
        try:
            return self._ask({"ids": [item.ids for item in items], "batch_tokens": batch_tokens})
        finally:
            os.kill(self._process.pid, signal.SIGSTOP)

    def wait_until_ready(self) -> None:
        """Read the first line, and stop the process until its turn."""
        self._read()
        os.kill(self._process.pid, signal.SIGSTOP)

    def _ask(self, content: dict[str, Any]) -> tuple[float, list[float]]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(content) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        return reply["seconds"], reply["scores"]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare engine ended with status {self._process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def engine_started(assay: Assay, model: ModelFolders) -> Iterator[EngineArm]:
    """A ready engine with the provider and precision of the server."""
    command = [
        str(assay.install() / "bin" / "python"), "-m", "benchmarks.serving.engine_alone", f"--bundle={model.bundle}",
        f"--provider={assay.provider}", *([f"--precision={assay.precision}"] if assay.precision else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        arm = EngineArm(process)
        arm.wait_until_ready()
        yield arm
    finally:
        process.kill()
        process.wait()
