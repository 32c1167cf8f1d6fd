"""A real server process for a benchmark."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from assay_client import RewardClient


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def metric(session: aiohttp.ClientSession, url: str, name: str, label: str = "") -> float:
    """Sum of the samples of a server's metric that have a label, such as `outcome="ok"`.

    Raises:
        aiohttp.ClientError: no scrape.
        LookupError: no such sample.
    """
    async with session.get(f"{url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    samples = [line for line in lines if re.match(rf"{name}[{{ ]", line) and label in line]
    if not samples:
        raise LookupError(f"{url}/metrics has no {name} {label}")
    return sum(float(line.rpartition(" ")[2]) for line in samples)


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
