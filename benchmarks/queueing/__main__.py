"""Queueing behaviour at 0.5 to 4 times the engine's capacity and with 1 to 2,000 workers, in virtual time.

python -m benchmarks.queueing [--quick]
"""

import argparse
import sys
import time
from typing import Any

from benchmarks.queueing import loads
from benchmarks.queueing.loads import BULK, INTERACTIVE, Mix
from benchmarks.queueing.server import Server
from benchmarks.result import Result, Target

LOADS = (0.5, 0.7, 0.9, 1.0, 2.0, 4.0)
WORKERS = (1, 8, 64, 512, 2000)
MIXES = {"mixed": Mix(interactive=0.1, bulk=0.9), "interactive only": Mix(interactive=1.0, bulk=0.0)}
INTERACTIVE_FACTOR = 12
SEED = 0


def run(quick: bool) -> Result:
    """Simulate everything. Seconds, not minutes."""
    began = time.process_time()
    seconds = 60.0 if quick else 240.0
    opened = {name: {load: loads.open_loop(mix, load, seconds, SEED) for load in LOADS} for name, mix in MIXES.items()}
    closed = {workers: loads.closed_loop(workers, seconds / 4, SEED) for workers in WORKERS}
    idle = loads.p99(loads.open_loop(MIXES["interactive only"], 0.02, 1200.0, SEED), INTERACTIVE)
    taken = time.process_time() - began
    figures: dict[str, Any] = {
        "virtual_seconds": seconds,
        "idle_interactive_p99_ms": round(1e3 * idle, 1),
        "open_loop": {
            name: {str(load): loads.figures(server) for load, server in servers.items()}
            for name, servers in opened.items()
        },
        "closed_loop_single_items": {str(workers): loads.figures(server) for workers, server in closed.items()},
        "processor_seconds": round(taken, 1),
    }
    return Result("queueing", quick, SEED, _targets(opened, closed, idle), figures)


def _targets(opened: dict[str, dict[float, Server]], closed: dict[int, Server], idle: float) -> list[Target]:
    every = [server for servers in opened.values() for server in servers.values()] + list(closed.values())
    idling = sum(server.idle_with_work for server in every)
    waits = [
        fate.picked_after / fate.bound for server in every for fate in server.fates if fate.picked_after is not None
    ]
    by_load = {load: loads.p99(server, INTERACTIVE) / idle for load, server in opened["mixed"].items()}
    slowest = max(by_load.values())
    refused = {load: sum(f.retry_after is not None for f in s.fates) for load, s in opened["mixed"].items()}
    early = sum(count for load, count in refused.items() if load < 1)
    bulk_done = [sum(f.ended is not None for f in s.fates if f.kind == BULK) for s in opened["mixed"].values()]
    first, last = (closed[workers].busy_seconds / closed[workers].now for workers in (WORKERS[0], WORKERS[-1]))
    return [
        Target("queue: batches that ended with something waiting and none ready", "0", f"{idling}", idling == 0),
        Target(
            "queue: p99 of interactive pairs beside bulk at 0.5 to 4 times capacity",
            f"at most {INTERACTIVE_FACTOR} times idle ({1e3 * idle:.0f} ms)",
            f"{slowest:.1f} times",
            slowest <= INTERACTIVE_FACTOR,
        ),
        Target(
            "queue: longest wait of any request, over its stated bound",
            "at most 1",
            f"{max(waits):.2f} of {len(waits)} requests",
            max(waits) <= 1,
        ),
        Target(
            "queue: refused below capacity / at 4 times",
            "0 / some",
            f"{early} / {refused[4.0]}",
            early == 0 and refused[4.0] > 0,
        ),
        Target(
            "queue: bulk posts that ended, at 4 times capacity over 0.9 times",
            "at least 0.5",
            f"{bulk_done[-1] / bulk_done[2]:.2f}",
            bulk_done[-1] >= 0.5 * bulk_done[2],
        ),
        Target(
            "queue: engine busy with 1 and 2,000 single-item workers",
            "at least 0.99",
            f"{first:.3f} and {last:.3f}",
            min(first, last) >= 0.99,
        ),
    ]


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the virtual time")
    result = run(parser.parse_args().quick)
    result.report()
    result.write()
    return 0 if all(target.held for target in result.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
