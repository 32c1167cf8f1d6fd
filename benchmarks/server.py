"""A real server process for a benchmark."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from assay_client import RewardClient


@contextlib.contextmanager
def serving(bundle: Path, module: str = "service", **settings: str) -> Iterator[str]:
    """The address of a ready server over `bundle`, on a free port of the loopback; stopped at the end.

    Args:
        bundle: what to serve.
        module: that is the server.
        settings: of the server, by name, such as max_batch_tokens="2048".

    Raises:
        RuntimeError: the server ended before it said where it listens.
    """
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", module, f"--bundle={bundle}", "--port=0", "--log-level=warning", *flags],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        address = next((found[0] for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line))), None)
        if address is None:
            raise RuntimeError(f"the server ended with status {process.wait()} before it listened")
        with RewardClient(address) as client:
            client.wait_until_ready(120)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
