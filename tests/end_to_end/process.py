"""A real server process."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.bundle.reader import Bundle

PATIENCE = 30.0
"""Seconds after which a process that does not do what it should has failed the test."""
ROOT = Path(__file__).parents[2]


def command(bundle: Bundle | Path, *flags: str) -> list[str]:
    folder = bundle if isinstance(bundle, Path) else bundle.folder
    return [sys.executable, "-m", "service", "--bundle", str(folder), "--port", "0", "--threads", "1", *flags]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_")} | more


def run_to_the_end(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to give up by itself."""
    return subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


class Process:
    """A server that runs; `url` is where."""

    def __init__(self, arguments: list[str], log: Path, gate: Path) -> None:
        self._log = log
        self._gate = gate
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                arguments, cwd=ROOT, env=environment(GATE=str(gate)), stdout=subprocess.PIPE, stderr=stderr
            )
        self.said = ""
        self.url = self._address()
        address = urllib.parse.urlsplit(self.url)
        assert address.hostname is not None
        assert address.port is not None
        self.host, self.port = address.hostname, address.port

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _address(self) -> str:
        return self.until_said(r" at (https?://\S+)\s")[1]

    def until_said(self, pattern: str) -> re.Match[str]:
        """Read what it prints until the pattern is in it."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            if found := re.search(pattern, self.said):
                return found
            if select.select([self._process.stdout], [], [], left)[0]:
                chunk = os.read(self._process.stdout.fileno(), 4096).decode()
                if not chunk:
                    break
                self.said += chunk
        raise AssertionError(f"no {pattern!r} on stdout: {self.said!r}; the log: {self.log}")

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """One request on a connection of its own: status and JSON body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def until(self, path: str, status: int) -> None:
        """Poll until the path answers with the status."""
        deadline = time.monotonic() + PATIENCE
        while self.request("GET", path)[0] != status:
            assert time.monotonic() < deadline, f"{path} never was {status}; the log: {self.log}"
            time.sleep(0.01)

    def hold(self) -> None:
        """Make the engine wait inside its next batch (a held server only)."""
        self._gate.touch()

    def let_go(self) -> None:
        self._gate.unlink(missing_ok=True)

    def metric(self, line: str) -> float:
        """Value of the metric whose name and labels are `line`."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as reply:
            text = reply.read().decode()
        return float(next(row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(f"{line} ")))

    def until_metric(self, line: str, value: float) -> None:
        """Poll until the metric has the value."""
        deadline = time.monotonic() + PATIENCE
        while self.metric(line) != value:
            assert time.monotonic() < deadline, f"{line} never was {value}; the log: {self.log}"
            time.sleep(0.01)

    def until_closed(self) -> None:
        """Poll until nobody listens."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                return
            time.sleep(0.01)
        raise AssertionError("the listener never closed")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; the exit status."""
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def server_process(
    bundle: Bundle, scratch: Path, *flags: str, module: str = "service", wait: bool = True
) -> Iterator[Process]:
    """Start a server, wait until it is ready, and make sure that it is gone at the end."""
    arguments = command(bundle, *flags)
    arguments[arguments.index("service")] = module
    process = Process(arguments, scratch / "server.log", scratch / "gate")
    try:
        if wait:
            process.until("/ready", 200)
        yield process
    finally:
        process.kill()
