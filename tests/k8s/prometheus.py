"""A real Prometheus process over servers on the loopback."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.server import free_port
from tests.k8s.rendering import need

PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""
SCRAPES = "250ms"


class Prometheus:
    """Scrapes servers four times a second and evaluates rules twice as seldom; a context manager that ends it.

    Args:
        folder: for its files.
        rules: the groups of a PrometheusRule.
        ports: of the servers, on 127.0.0.1.
    """

    def __init__(self, folder: Path, rules: dict[str, Any], ports: Sequence[int]) -> None:
        need("prometheus", "apt-get install prometheus")
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        configuration = {
            "global": {"scrape_interval": SCRAPES, "scrape_timeout": SCRAPES, "evaluation_interval": "500ms"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {
                    "job_name": "assay-operations",
                    "static_configs": [{"targets": [f"127.0.0.1:{target}" for target in ports]}],
                }
            ],
        }
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
        self._process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> "Prometheus":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What the expression gives now."""
        return list(self._ask("query", query=expression)["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its state."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def until(self, expression: str, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Poll until the expression gives something."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                if found := self.query(expression):
                    return found
            except OSError:  # it begins, and may answer 503 then
                assert self._process.poll() is None, "Prometheus ended"
            time.sleep(0.1)
        raise AssertionError(f"{expression} never gave anything")

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        address = f"{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as reply:
            data: dict[str, Any] = json.load(reply)["data"]
            return data
