"""Training speed and memory beside TRL's RewardTrainer and a plain padded loop: same model, pairs, order and precision.

    python -m benchmarks.training.run [--quick] [--only WORKLOAD]

Every contender trains in a process of its own, in turn, round after round, on the same token ids: a step holds the same
pairs for all, those of one prompt (or of a few). First in fp32, to show that the losses are the same step by step; then
for time, in bf16 where the processor computes in it. Assay computes every response of a prompt once, and the prompt
once for all of them; the others compute both sides of every pair, with the prompt, padded to the longest of the step.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.result import Result, Row, Target, publish_parts
from benchmarks.training.contender import CONTENDERS
from benchmarks.training.work import WORKLOADS
from training.precision import computes_bf16

SAME_LOSS = 1e-3
"""Largest difference of a step's loss in fp32: rounding, which a few steps of training spread."""
WARM_UP = 1
PARTS = {name.replace(", ", "_").replace(" ", "_").replace("-", "_"): name for name in WORKLOADS}
"""Workloads by the name of their result."""


@dataclass(frozen=True)
class Trained:
    """What one process told.

    Attributes:
        precision: bf16 or fp32.
        pairs_per_second: of the steps after the first, which also makes the moments of AdamW.
        peak_mib: of the whole process, with its libraries.
    """

    precision: str
    losses: list[float]
    pairs_per_second: float
    peak_mib: float
    before_mib: float


def train(name: str, workload: str, steps: int, *flags: str) -> Trained:
    """Let a contender train.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.training.contender", name, workload, f"--steps={steps}", *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    seconds = told["seconds"][WARM_UP:]
    return Trained(
        told["precision"],
        told["losses"],
        told["pairs"] * len(seconds) / sum(seconds),
        told["peak_mib"],
        told["before_mib"],
    )


def measure(part: str, quick: bool) -> Result:
    """One workload."""
    name = PARTS[part]
    workload = WORKLOADS[name]
    steps, rounds = (3, 1) if quick else (workload.steps, workload.rounds)
    in_fp32 = {contender: train(contender, name, 3, "--fp32") for contender in CONTENDERS}
    same = {contender: run.losses for contender, run in in_fp32.items()}
    runs: dict[str, list[Trained]] = {contender: [] for contender in CONTENDERS}
    if quick and not computes_bf16():  # then these were the three steps
        runs, rounds = {contender: [run] for contender, run in in_fp32.items()}, 0
    for _ in range(rounds):
        for contender, done in runs.items():
            done.append(train(contender, name, steps))
            print(f"  {contender}: {done[-1].pairs_per_second:.2f} pairs/s", file=sys.stderr, flush=True)
    largest = max(
        abs(mine - theirs)
        for other in ("trl", "padded")
        for mine, theirs in zip(same["assay"], same[other], strict=True)
    )
    faster = {other: ratios(runs["assay"], runs[other]) for other in ("trl", "padded")}
    memory = statistics.median(r.peak_mib for r in runs["assay"]) / statistics.median(r.peak_mib for r in runs["trl"])
    targets = [
        Target(
            f"training, {name}: pairs a second over TRL's RewardTrainer", f"at least {workload.wanted}x",
            spread(faster["trl"]), statistics.median(faster["trl"]) >= workload.wanted,
        ),
        Target(
            f"training, {name}: pairs a second over a padded loop", "at least 1x", spread(faster["padded"]),
            statistics.median(faster["padded"]) >= 1,
        ),
        Target(f"training, {name}: peak memory over TRL's", "at most 1x", f"{memory:.2f}x", memory <= 1),
        Target(
            f"training, {name}: the losses of three steps in fp32 are those of TRL and of the padded loop",
            f"within {SAME_LOSS:.0e}", f"largest difference {largest:.1e}", largest <= SAME_LOSS, detail=True,
        ),
    ]  # fmt: skip
    rows = [
        Row(
            f"training, {name}: {contender}",
            f"{statistics.median(r.pairs_per_second for r in done):.2f} pairs/s, "
            f"{statistics.median(r.peak_mib for r in done):.0f} MiB",
        )
        for contender, done in runs.items()
    ]
    figures = {
        "workload": vars(workload),
        "steps": steps,
        "rounds": len(runs["assay"]),
        "losses_fp32": same,
        "runs": {contender: [vars(r) for r in done] for contender, done in runs.items()},
    }
    return Result(f"training_{part}", quick, 0, targets, figures, rows)


def ratios(mine: Sequence[Trained], theirs: Sequence[Trained]) -> list[float]:
    """Round by round, so that what slows the machine slows both."""
    return [one.pairs_per_second / other.pairs_per_second for one, other in zip(mine, theirs, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f}x ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    publish_parts(__doc__, PARTS, measure, quick="one round of three steps")
