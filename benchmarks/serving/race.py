"""The race: capacity of Assay's server and of its peers on the same texts, round by round in turn.

    python -m benchmarks.serving.race [--quick] [--model smollm2|minilm] [--peers vllm ...] [--workloads mixed ...]

Every round has fresh texts, the same for all arms; in it the arms take turns, the others stopped; the order is drawn
anew for each round. Every score is checked; where a peer computes our function, its order of the scores must be ours.
"""

import argparse
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.result import Result, Target, refuse_uncommitted
from benchmarks.serving.arms import Arm, started
from benchmarks.serving.closed_loop import Loop, run_loop
from benchmarks.serving.options import add_options, add_peer_options, peers_of, workloads_of
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.peers.base import Peer
from benchmarks.serving.spreads import percentiles, ratios, spread, written
from benchmarks.serving.work import Work
from benchmarks.serving.workloads import WORKLOADS
from training.evaluation.metrics import spearman

SEED = 0
LEAST_AGREEMENT = 0.98
"""Rank correlation with our scores that a peer of the same function must reach; its bfloat16 gives about 0.998."""
WANTED = {
    ("smollm2", "vllm"): {
        "best-of-8": 2.0,
        "best-of-8-long": 2.0,
        "best-of-8-short": 2.0,
        "best-of-64": 2.0,
        "pairs": 1.6,
        "*": 1.0,
    },
    ("minilm", "infinity"): {"mixed": 2.0},
    ("minilm", "openrlhf-style"): {"mixed": 5.0},
}
"""Least ratio of our capacity to a peer's by model, peer and workload; * is any other workload."""


@dataclass
class Measured:
    """What one arm did on one workload."""

    capacity: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, loop: Loop) -> None:
        """One round more."""
        self.capacity.append(loop.responses_per_second)
        self.latencies += loop.latencies
        self.scores += [score for scores in loop.scores for score in scores]


def race_workload(name: str, work: Work, arms: list[Arm], rounds: int, quick: bool) -> dict[str, Measured]:
    """All rounds of one workload, after one that warms up."""
    workload = WORKLOADS[name]
    order = random.Random(SEED)
    measured = {arm.peer.label: Measured() for arm in arms}
    for number, requests in enumerate(work.rounds(name, SEED, rounds + 1, quick)):
        warming = number == 0
        part = requests[: workload.connections] if warming else requests
        for arm in order.sample(arms, len(arms)):
            with arm.turn():
                loop = run_loop(arm, part, workload.connections)
            if not warming:
                measured[arm.peer.label].add(loop)
                print(f"{name} {number}/{rounds} {arm.peer.label}: {loop.responses_per_second:.2f}/s", flush=True)
    return measured


def agreement(ours: list[float], theirs: list[float]) -> float:
    """Rank correlation; 0 where one of them does not vary."""
    return spearman(np.asarray(ours), np.asarray(theirs)) or 0.0


def targets_of(work: Work, workload: str, arms: list[Arm], measured: dict[str, Measured]) -> list[Target]:
    """Ratios of each of our arms against what is wanted, and agreement with the first of them."""
    ours = [arm for arm in arms if isinstance(arm.peer, Assay)]
    first = measured[ours[0].peer.label]
    targets = []
    for arm in arms[1:]:
        theirs = measured[arm.peer.label]
        wanted = WANTED.get((work.model.name, arm.peer.name), {})
        least = wanted.get(workload, wanted.get("*"))
        if least is not None:
            for mine in ours:
                ratio = ratios(measured[mine.peer.label].capacity, theirs.capacity)
                title = f"{work.model.name}, {workload}: {mine.peer.label} to {arm.peer.label}"
                targets.append(Target(title, f"at least {least:g}x", written(ratio, "x"), ratio["median"] >= least))
        if arm.peer.same_function(work.model):
            same = agreement(first.scores, theirs.scores)
            title = f"{work.model.name}, {workload}: {arm.peer.label} computes our function"
            targets.append(
                Target(
                    title,
                    f"rank correlation at least {LEAST_AGREEMENT}",
                    f"{same:.4f}",
                    same >= LEAST_AGREEMENT,
                    detail=True,
                )
            )
    return targets


def figures_of(arms: list[Arm], work: Work, measured: dict[str, Measured]) -> dict[str, Any]:
    """Capacity, closed-loop latency, ratio and agreement of every arm."""
    mine = measured[arms[0].peer.label]
    return {
        arm.peer.label: {
            "responses_per_second": spread(found.capacity),
            "closed_loop_ms": percentiles(found.latencies),
            "ours_to_this": ratios(mine.capacity, found.capacity),
            "rank_correlation": agreement(mine.scores, found.scores) if arm.peer.same_function(work.model) else None,
            "largest_difference": float(np.abs(np.subtract(mine.scores, found.scores)).max())
            if arm.peer.same_function(work.model)
            else None,
        }
        for arm in arms
        for found in [measured[arm.peer.label]]
    }


def run(quick: bool, model: str, peers: list[Peer], workloads: list[str], rounds: int | None = None) -> Result:
    """Race all workloads with all arms started once; ours come first."""
    work = Work.of(model)
    rounds = rounds or (3 if quick else 7)
    served = [peer for peer in peers if peer.serves(work.model)]
    targets: list[Target] = []
    raced: dict[str, Any] = {}
    with contextlib.ExitStack() as running:
        arms = [running.enter_context(started(peer, work.model)) for peer in served]
        for name in workloads:
            measured = race_workload(name, work, arms, rounds, quick)
            raced[name] = figures_of(arms, work, measured)
            targets += targets_of(work, name, arms, measured)
    figures = {
        "rounds": rounds,
        "workloads": raced,
        "peers": {peer.label: peer.versions() for peer in served},
        "commands": {peer.label: " ".join(peer.command(work.model, 0)[1:]) for peer in served},
    }
    return Result(f"race_{model}", quick, SEED, targets, figures)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_peer_options(parser)
    parser.add_argument("--rounds", type=int, help="default: 7, quick 3")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    run(
        arguments.quick, arguments.model, peers_of(arguments), workloads_of(arguments), arguments.rounds
    ).publish()  # fmt: skip


if __name__ == "__main__":
    main()
