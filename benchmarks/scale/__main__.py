"""Throughput and evenness of 1, 2 and 4 replicas, and a simulation to 200 of them with the autoscaler in the loop.

    python -m benchmarks.scale [--quick]

Replicas are real servers over an engine that only takes the time of a real one (`benchmarks.scale.paced_server`).
"""

import argparse
import statistics
from dataclasses import asdict

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.scale.autoscaler import Scenario, simulate
from benchmarks.scale.replicas import run_replicas
from benchmarks.verify_line import ensure_bundle

WORKERS = (200, 2_000, 20_000)


def run(quick: bool) -> Result:
    """Measure, then simulate."""
    ensure_bundle()
    measured = run_replicas(quick)
    rate = {key: statistics.median(one["items_a_second"] for one in runs) for key, runs in measured.items()}
    skew = {key: statistics.median(one["skew"] for one in runs) for key, runs in measured.items()}
    targets = [
        Target(
            f"{count} replicas, the SDK's choice: throughput over that of one", f"at least {0.9 * count:g}x",
            f"{rate[f'{count} sdk'] / rate['1 sdk']:.2f}x", rate[f"{count} sdk"] >= 0.9 * count * rate["1 sdk"],
        )
        for count in (2, 4)
    ]  # fmt: skip
    targets.append(
        Target(
            "4 replicas, the SDK's choice: the busiest over the mean", "at most 1.1", f"{skew['4 sdk']:.2f}",
            skew["4 sdk"] <= 1.1,
        )
    )  # fmt: skip
    rows = [
        Row(f"{key}: items a second, and the busiest replica over the mean", f"{rate[key]:,.0f}, {skew[key]:.2f}")
        for key in measured
    ]
    simulated = []
    for workers in WORKERS[:2] if quick else WORKERS:
        for label, scenario in (
            ("autoscaled, the SDK's choice", Scenario(workers)),
            ("autoscaled, pinned connections", Scenario(workers, balancing="pinned")),
            ("as many as there may be, all the time", Scenario(workers, autoscaled=False)),
        ):
            outcome = simulate(scenario)
            simulated.append({"scenario": asdict(scenario), "label": label, **asdict(outcome)})
            rows.append(
                Row(
                    f"simulated, {workers:,} workers, 8 items each every {scenario.step_s:g} s, {label}",
                    f"a burst takes {outcome.drains[0]:.1f} s at first, {statistics.median(outcome.drains[-5:]):.1f} s "
                    f"later, {outcome.replicas[-1]} replicas, {outcome.replica_hours:.1f} replica-hours for "
                    f"{scenario.steps} steps",
                )
            )
    return Result("scale", quick, 0, targets, {"replicas": measured, "simulated": simulated}, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 5 s, and no 20,000 workers")
    flags = parser.parse_args()
    refuse_uncommitted(flags.quick)
    run(flags.quick).publish()
