"""Throughput and evenness of 1, 2 and 4 replicas, and a simulation to 200 of them with the autoscaler in the loop.

    python -m benchmarks.scale [--quick]

Replicas are real servers over an engine that only takes the time of a real one (`benchmarks.scale.paced_server`).
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.scale.autoscaler import Scenario, simulate
from benchmarks.scale.replicas import CALLERS, LOAD, OPEN_CALLERS, run_replicas
from benchmarks.verify_line import ensure_bundle

WORKERS = {200: None, 2_000: None, 20_000: 200}
"""Workers, and the most replicas where more than the manifest has."""
SIMULATED = (
    "Simulated: median, least and most over eight phases of scraping and polling against the bursts. What a burst "
    "takes is until its last item is scored. The third row of each three has as many replicas all the time as the "
    "autoscaler ends with. Pinned connections stay with the replica that they were made to; those that come later get "
    "nothing from them, until a pause is longer than servers keep connections open (75 s). Where a step is longer than "
    "the window of scaling down (300 s in the manifest), each burst finds the fewest replicas."
)
LATER, LONG_STEP_S = 5, 600.0
"""Bursts at the end of a simulation that count as later ones, and a step longer than the scaler's window."""
NOTE = (
    "Each caller has a client of its own, as workers have, with one request in flight. The SDK's choice goes by what "
    "servers tell of their load with each reply; by a client's own requests alone, which says nothing to a worker with "
    "one at a time, 2 replicas had 1.73x and 4 had 3.20x the throughput of one (commit fde612f)."
)


def run(quick: bool) -> Result:
    """Measure, then simulate."""
    ensure_bundle()
    measured = run_replicas(quick)

    def median(key: str, what: str) -> float:
        return float(statistics.median(one[what] for one in measured[key]))

    gain = {count: median(f"{count} sdk", "items_a_second") / median("1 sdk", "items_a_second") for count in (2, 4)}
    skew, pinned = median("4 sdk open", "skew"), median("4 pinned open", "skew")
    targets = [
        Target(
            f"{count} replicas, the SDK's choice, {CALLERS} callers each: throughput over that of one",
            f"at least {0.9 * count:g}x", f"{ratio:.2f}x", ratio >= 0.9 * count,
        )
        for count, ratio in gain.items()
    ]  # fmt: skip
    targets.append(
        Target(
            f"4 replicas at {LOAD:.0%} of that, {OPEN_CALLERS} callers each, the SDK's choice: busiest over the mean",
            "at most 1.1", f"{skew:.2f} (pinned connections {pinned:.2f})", skew <= 1.1,
        )
    )  # fmt: skip
    rows = [
        Row(
            f"{key}: items a second, the busiest replica over the mean, p99",
            f"{median(key, 'items_a_second'):,.0f}, {median(key, 'skew'):.2f}, {median(key, 'p99_ms'):,.0f} ms",
        )
        for key in measured
    ]
    simulated: list[dict[str, Any]] = []
    for workers, most in WORKERS.items():
        if quick and workers > 2_000:
            continue
        scaled = simulated_rows(rows, simulated, "autoscaled, the SDK's choice", Scenario(workers, most=most), quick)
        simulated_rows(
            rows, simulated, "autoscaled, pinned connections", Scenario(workers, most=most, balancing="pinned"), quick
        )
        simulated_rows(rows, simulated, f"{scaled} replicas all the time", Scenario(workers, fixed=scaled), quick)
    slow = Scenario(2_000, step_s=LONG_STEP_S, steps=8)
    simulated_rows(rows, simulated, "autoscaled, the SDK's choice", slow, quick)
    simulated_rows(
        rows, simulated, f"the same, with a window of {2 * LONG_STEP_S:g} s for scaling down",
        replace(slow, down_s=2 * LONG_STEP_S), quick,
    )  # fmt: skip
    return Result("scale", quick, 0, targets, {"replicas": measured, "simulated": simulated}, rows, [NOTE, SIMULATED])


def simulated_rows(
    rows: list[Row], simulated: list[dict[str, Any]], label: str, scenario: Scenario, quick: bool
) -> int:
    """A scenario with several phases of the autoscaler against the bursts; gives how many replicas it ends with."""
    outcomes = [simulate(replace(scenario, seed=seed)) for seed in range(3 if quick else 8)]
    first = [outcome.drains[0] for outcome in outcomes]
    later = [drain for outcome in outcomes for drain in outcome.drains[-LATER:]]
    hours = [outcome.replica_hours for outcome in outcomes]
    ends = [outcome.replicas[-1] for outcome in outcomes]
    simulated.append({"scenario": asdict(scenario), "label": label, "outcomes": [asdict(o) for o in outcomes]})
    rows.append(
        Row(
            f"simulated, {scenario.workers:,} workers, {scenario.items} items each every {scenario.step_s:g} s, "
            f"{label}",
            f"the first burst takes {_range(first)} s, the last {LATER} of {scenario.steps} {_range(later)} s, with "
            f"{_range(ends, 0)} replicas at the end, {_range(hours)} replica-hours",
        )
    )
    return round(statistics.median(ends))


def _range(values: Sequence[float], digits: int = 1) -> str:
    """Median, and least and most."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 5 s, and no 20,000 workers")
    flags = parser.parse_args()
    refuse_uncommitted(flags.quick)
    run(flags.quick).publish()
