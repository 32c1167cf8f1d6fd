"""What company does to a score, and what the setting `deterministic` costs.

    python -m benchmarks.serving.determinism [--quick] [--model smollm2|minilm] [--provider P] [--precision P]

Two servers, one as it is and one with `deterministic`, take turns on the same requests. The first round is then asked
again, one request at a time in another order, so that every item meets other company: no score of the deterministic
server may change by a bit, and none of the other by more than its precision's bound.
"""

import argparse
import contextlib
import random
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.serving.arms import Arm, served_precision, started
from benchmarks.serving.closed_loop import Loop, run_loop
from benchmarks.serving.models import MAX_TOKENS
from benchmarks.serving.options import add_options, assay_of
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.spreads import ratios, spread, written
from benchmarks.serving.work import Round, Work
from benchmarks.serving.workloads import WORKLOADS, fitting

SEED = 2
BOUND = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""Most that company may change a score by, where scores have a standard deviation of about one."""
NAMES = ("best-of-8", "best-of-64", "pairs", "mixed", "bulk")


def changes(arm: Arm, requests: Round, before: Loop) -> dict[str, Any]:
    """How many scores change, and by how much at most, when each request comes alone and in another order."""
    order = list(range(len(requests)))
    random.Random(SEED).shuffle(order)
    with arm.turn():
        alone = run_loop(arm, [requests[place] for place in order], 1)
    differences = np.concatenate(
        [np.abs(np.subtract(before.scores[place], scores)) for place, scores in zip(order, alone.scores, strict=True)]
    )
    return {
        "scores": differences.size,
        "changed": int(np.count_nonzero(differences)),
        "largest_difference": float(differences.max()),
    }


def compare(name: str, work: Work, arms: dict[str, Arm], rounds: int, quick: bool) -> dict[str, Any]:
    """Capacity of both servers in turn, and the changes of the first round."""
    capacity: dict[str, list[float]] = {key: [] for key in arms}
    changed: dict[str, Any] = {}
    for number, requests in enumerate(work.rounds(name, SEED, rounds + 1, quick)):
        for key, arm in random.Random(number).sample(list(arms.items()), len(arms)):
            with arm.turn():
                loop = run_loop(arm, requests, WORKLOADS[name].connections)
            if number:
                capacity[key].append(loop.responses_per_second)
            else:  # the warming-up
                changed[key] = changes(arm, requests, loop)
    print(name, {key: spread(values)["median"] for key, values in capacity.items()}, changed, flush=True)
    return {
        "responses_per_second": {key: spread(values) for key, values in capacity.items()},
        "deterministic_to_plain": ratios(capacity["deterministic"], capacity["plain"]),
        "changes": changed,
    }


def run(quick: bool, model: str, assay: Assay, names: list[str] | None = None) -> Result:
    """Both servers on all workloads that fit the model."""
    work = Work.of(model)
    strict = replace(assay, flags={**assay.flags, "deterministic": "true"})
    names = names or [name for name in NAMES if name in fitting(MAX_TOKENS[model])]
    with contextlib.ExitStack() as running:
        arms = {
            "plain": running.enter_context(started(assay, work.model)),
            "deterministic": running.enter_context(started(strict, work.model)),
        }
        precision = served_precision(arms["plain"])
        found = {name: compare(name, work, arms, 3 if quick else 5, quick) for name in names}
    worst = max(one["changes"]["plain"]["largest_difference"] for one in found.values())
    bits = sum(one["changes"]["deterministic"]["changed"] for one in found.values())
    scores = sum(one["changes"]["deterministic"]["scores"] for one in found.values())
    targets = [
        Target(
            f"{model} in {precision}: what company changes in a score",
            f"at most {BOUND[precision]:.0e}",
            f"{worst:.1e}",
            worst <= BOUND[precision],
        ),
        Target(
            f"{model} in {precision}, deterministic: scores that company changes",
            "none by a bit",
            f"{bits} of {scores}",
            bits == 0,
        ),
    ]
    rows = [
        Row(f"{model}, {name}: deterministic to plain throughput", written(one["deterministic_to_plain"], "x"))
        for name, one in found.items()
    ]
    figures = {"precision": precision, "workloads": found, "server": assay.label, "versions": assay.versions()}
    return Result(f"determinism_{model}_{precision}", quick, SEED, targets, figures, rows)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--workloads", nargs="*", choices=NAMES, help="default: all that fit the model")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    result = run(arguments.quick, arguments.model, assay_of(arguments), arguments.workloads)
    result.publish()


if __name__ == "__main__":
    main()
