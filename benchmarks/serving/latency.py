"""Latency beside the peers: the same requests arrive at the same constant rate, whatever a server does with them.

    python -m benchmarks.serving.latency [--quick] [--model smollm2|minilm] [--peers vllm ...] [--workloads mixed ...]

The rate is `LOAD` of what the slowest of the servers did in a closed loop before, so that none of them is overloaded,
and none looks better for what another cannot take. Rounds are interleaved as in the race.
"""

import argparse
import contextlib
import random
from typing import Any

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.serving.arms import Arm, started
from benchmarks.serving.closed_loop import run_loop
from benchmarks.serving.open_loop import OpenLoop, run_open_loop
from benchmarks.serving.options import add_options, add_peer_options, peers_of, workloads_of
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.peers.base import Peer
from benchmarks.serving.spreads import Spread, spread, written
from benchmarks.serving.work import Round, Work
from benchmarks.serving.workloads import WORKLOADS

SEED = 5
LOAD = 0.7
SECONDS, QUICK_SECONDS = 60, 20
ROUNDS, QUICK_ROUNDS = 3, 1


def rate_for(name: str, work: Work, arms: list[Arm]) -> float:
    """Requests a second that all can take."""
    (requests,) = work.rounds(name, SEED, 1, True)
    rates = []
    for arm in arms:
        with arm.turn():
            run_loop(arm, requests[:2], 1)  # the first are slower
            rates.append(len(requests) / run_loop(arm, requests, WORKLOADS[name].connections).seconds)
    return LOAD * min(rates)


def fresh(name: str, work: Work, rounds: int, count: int) -> list[Round]:
    """At least `count` requests for each round, none of them twice, and none of those that the rate was found with."""
    size = WORKLOADS[name].round_size(True)
    each = -(-count // size)
    parts = work.rounds(name, SEED, 1 + rounds * each, True)[1:]
    return [[items for part in parts[at : at + each] for items in part] for at in range(0, len(parts), each)]


def measure(name: str, work: Work, arms: list[Arm], rate: float, quick: bool) -> dict[str, list[OpenLoop]]:
    """All rounds of a workload by arm, in an order that is drawn for each."""
    seconds, rounds = (QUICK_SECONDS, QUICK_ROUNDS) if quick else (SECONDS, ROUNDS)
    order = random.Random(SEED)
    found: dict[str, list[OpenLoop]] = {arm.peer.label: [] for arm in arms}
    for number, requests in enumerate(fresh(name, work, rounds, int(rate * seconds) + 1)):
        for arm in order.sample(arms, len(arms)):
            with arm.turn():
                loop = run_open_loop(arm, requests, rate, seconds)
            found[arm.peer.label].append(loop)
            times = f"p50 {loop.p50:.0f} ms, p99 {loop.p99:.0f} ms"
            print(f"{name} {number + 1}/{rounds} {arm.peer.label}: {times}", flush=True)
    return found


def percentiles_of(loops: list[OpenLoop]) -> dict[str, Spread]:
    """Over the rounds, milliseconds."""
    return {name: spread([getattr(loop, name) for loop in loops]) for name in ("p50", "p90", "p99")}


def run(quick: bool, model: str, peers: list[Peer], workloads: list[str]) -> Result:
    """All workloads, with all arms started once; ours are those of `Assay`."""
    work = Work.of(model)
    targets: list[Target] = []
    rows: list[Row] = []
    figures: dict[str, Any] = {"load": LOAD, "workloads": {}}
    with contextlib.ExitStack() as running:
        arms = [running.enter_context(started(peer, work.model)) for peer in peers if peer.serves(work.model)]
        ours = [arm.peer.label for arm in arms if isinstance(arm.peer, Assay)]
        for name in workloads:
            rate = rate_for(name, work, arms)
            found = measure(name, work, arms, rate, quick)
            figures["workloads"][name] = {
                "requests_per_second": rate,
                "arms": {label: [loop.as_json() for loop in loops] for label, loops in found.items()},
            }
            for label, loops in found.items():
                times = percentiles_of(loops)
                text = ", ".join(f"{percentile} {written(value, ' ms')}" for percentile, value in times.items())
                rows.append(Row(f"{model}, {name} at {rate:.2f} requests/s: {label}", text))
            targets += compared(f"{model}, {name}", found, ours)
        figures["peers"] = {arm.peer.label: arm.peer.versions() for arm in arms}
    return Result(f"latency_{model}", quick, SEED, targets, figures, rows)


def compared(title: str, found: dict[str, list[OpenLoop]], ours: list[str]) -> list[Target]:
    """Nothing of ours may fail, and our p99 may be no longer than a peer's in the same round."""
    targets = []
    for mine in ours:
        lost = sum(loop.failed + loop.dropped for loop in found[mine])
        for label in found.keys() - set(ours):
            ratio = spread([b.p99 / a.p99 for a, b in zip(found[mine], found[label], strict=True)])
            targets.append(
                Target(
                    f"{title}, p99 at {LOAD:.0%} of the slowest: {label}'s over that of {mine}",
                    "at least 1x, nothing of ours failed",
                    f"{written(ratio, 'x')}, {lost} failed",
                    ratio["median"] >= 1 and not lost,
                )
            )
    return sorted(targets, key=lambda target: target.name)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_peer_options(parser)
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    run(arguments.quick, arguments.model, peers_of(arguments), workloads_of(arguments)).publish()


if __name__ == "__main__":
    main()
