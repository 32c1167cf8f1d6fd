"""What HTTP, tokenising and scheduling cost on top of the engine, and what waiting costs under load.

    python -m benchmarks.serving.http_overhead [--quick] [--model smollm2|minilm] [--provider P] [--precision P]

The engine alone gets the tokens of the same items in the same order, planned into full batches, of the size that was
fastest in the round that warms up: it is not beaten by its own settings.
"""

import argparse
import asyncio
import contextlib
from typing import Any

import aiohttp
import numpy as np

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.server import metric
from benchmarks.serving.arms import Arm, served_precision, started
from benchmarks.serving.closed_loop import run_loop
from benchmarks.serving.engine_arm import EngineArm, engine_started
from benchmarks.serving.open_loop import run_open_loop
from benchmarks.serving.options import add_options, assay_of
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.spreads import percentiles, ratios, spread, written
from benchmarks.serving.work import Round, Work
from benchmarks.serving.workloads import WORKLOADS

SEED = 1
BATCH_TOKENS = (1024, 2048, 4096, 8192)
MOST_TRIED = 64
"""Items on which the batch size is chosen."""
LEAST_SHARE = {"bulk": 0.95, "mixed": 0.85}
"""HTTP throughput over the engine's: one large post at a time, and single-item posts on 64 connections."""
MOST_PADDED_CELLS = 0.25
"""Share of the attention cells of mixed single-item posts that are for nothing."""
MOST_IDLE_MS = 1.5
MOST_TAIL = 4.0
LOAD = 0.7
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""Largest difference of a score over HTTP and from the engine alone, whose batches differ; scores spread to about 1."""


def best_batch(engine: EngineArm, requests: Round) -> int:
    """The batch size, in tokens, at which the engine takes these items in the shortest time."""
    items = [item for request in requests for item in request][:MOST_TRIED]
    engine.score(items, BATCH_TOKENS[0])  # the first is slower than its size
    return min(BATCH_TOKENS, key=lambda tokens: min(engine.score(items, tokens)[0] for _ in range(2)))


def throughput(name: str, work: Work, arm: Arm, engine: EngineArm, rounds: int, quick: bool) -> dict[str, Any]:
    """Responses a second over HTTP and from the engine, in turn."""
    over_http, alone, differences = [], [], [0.0]
    batch_tokens = BATCH_TOKENS[-1]
    for number, requests in enumerate(work.rounds(name, SEED, rounds + 1, quick)):
        if not number:
            batch_tokens = best_batch(engine, requests)
        seconds, direct = engine.score([item for request in requests for item in request], batch_tokens)
        with arm.turn():
            loop = run_loop(arm, requests, WORKLOADS[name].connections)
        if number:  # the first warms up
            over_http.append(loop.responses_per_second)
            alone.append(len(direct) / seconds)
            served = np.array([score for scores in loop.scores for score in scores])
            differences.append(float(np.abs(served - direct).max()))
    return {
        "http": spread(over_http),
        "engine": spread(alone),
        "share": ratios(over_http, alone),
        "engine_batch_tokens": batch_tokens,
        "largest_difference": max(differences),
    }


def counted(arm: Arm) -> dict[str, dict[str, float]]:
    """What the server has computed so far, by kind: needed, and padding."""

    async def scrape() -> dict[str, dict[str, float]]:
        async with aiohttp.ClientSession() as session:
            return {
                name: {kind: await metric(session, arm.url, f"assay_{name}_total", f'"{kind}"') for kind in kinds}
                for name, kinds in {"attention_cells": ("needed", "padding"), "tokens": ("real", "padding")}.items()
            }

    with arm.turn():
        return asyncio.run(scrape())


def padding(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, float]:
    """Share of padding in what was computed between two looks."""
    done = {name: {kind: after[name][kind] - count for kind, count in kinds.items()} for name, kinds in before.items()}
    return {name: kinds["padding"] / sum(kinds.values()) for name, kinds in done.items()}


def idle(work: Work, arm: Arm, engine: EngineArm, quick: bool) -> dict[str, Any]:
    """One request at a time, alternating one over HTTP and the same from the engine: milliseconds."""
    # Both are warmed up in their turn by another text of that length: connection, pages and caches went cold, and the
    # same text again could come out of a cache of scores.
    warming, requests = work.rounds("interactive", SEED, 2, quick)
    over_http, alone = [], []
    for before, items in zip(warming, requests, strict=True):
        engine.score(before, BATCH_TOKENS[-1])
        alone.append(engine.score(items, BATCH_TOKENS[-1])[0])
        with arm.turn():
            over_http.append(run_loop(arm, [before, items], 1).latencies[1])
    added = [1000 * (a - b) for a, b in zip(over_http, alone, strict=True)]
    return {"http_ms": percentiles(over_http), "engine_ms": percentiles(alone), "added_ms": spread(added)}


def loaded(work: Work, arm: Arm, capacity: float, seconds: int, idle_ms: float) -> dict[str, Any]:
    """Interactive requests at a share of the measured capacity, arriving at a constant rate."""
    count = int(LOAD * capacity * seconds) + 1
    requests = [items for part in work.rounds("interactive", SEED + 1, 1 + count // 20, True) for items in part]
    with arm.turn():
        found = run_open_loop(arm, requests, LOAD * capacity, seconds)
    return {**found.as_json(), "capacity": capacity, "p99_over_idle_median": found.p99 / idle_ms}


def interactive_capacity(work: Work, arm: Arm, quick: bool) -> float:
    """Requests a second that 16 callers get out of the server."""
    rounds = work.rounds("interactive", SEED + 2, 8, quick)
    with arm.turn():
        return run_loop(arm, [items for part in rounds for items in part], 16).responses_per_second


def run(quick: bool, model: str, assay: Assay) -> Result:
    """Throughput, padding, one idle request and the tail under load, of one model."""
    work = Work.of(model)
    rounds = 3 if quick else 7
    targets = []
    with contextlib.ExitStack() as running:
        engine = running.enter_context(engine_started(assay, work.model))
        arm = running.enter_context(started(assay, work.model))
        precision = served_precision(arm)
        figures: dict[str, Any] = {}
        for name, least in LEAST_SHARE.items():
            before = counted(arm)
            found = figures[name] = throughput(name, work, arm, engine, rounds, quick)
            found["padding"] = padding(before, counted(arm))
            share = found["share"]
            targets.append(
                Target(
                    f"{model}, {name}: HTTP to the engine alone",
                    f"at least {least}",
                    written(share),
                    share["median"] >= least,
                )
            )
        figures["idle"] = idle(work, arm, engine, quick)
        capacity = interactive_capacity(work, arm, quick)
        median = figures["idle"]["http_ms"]["p50"]
        figures["loaded"] = loaded(work, arm, capacity, 20 if quick else 60, median)
    added, tail = figures["idle"]["added_ms"], figures["loaded"]["p99_over_idle_median"]
    failed = figures["loaded"]["failed"] + figures["loaded"]["dropped"]
    targets += [
        Target(
            f"{model}, one idle request: HTTP less engine",
            f"at most {MOST_IDLE_MS} ms",
            written(added, " ms"),
            added["median"] <= MOST_IDLE_MS,
        ),
        Target(
            f"{model}, p99 at {LOAD:.0%} load over the idle median",
            f"at most {MOST_TAIL:g}x, nothing failed",
            f"{tail:.2f}x, {failed} failed",
            tail <= MOST_TAIL and not failed,
        ),
    ]
    padded = figures["mixed"]["padding"]
    targets.append(
        Target(
            f"{model}, mixed: padding among attention cells",
            f"at most {MOST_PADDED_CELLS:.0%}",
            f"{padded['attention_cells']:.1%}",
            padded["attention_cells"] <= MOST_PADDED_CELLS,
        )
    )
    rows = [Row(f"{model}, mixed: padding among query slots or tokens, whichever has more", f"{padded['tokens']:.1%}")]
    worst = max(figures[name]["largest_difference"] for name in LEAST_SHARE)
    bound = TOLERANCE[precision]
    targets.append(
        Target(
            f"{model} in {precision}, HTTP and engine agree",
            f"within {bound:.0e}",
            f"{worst:.1e}",
            worst <= bound,
            True,
        )
    )
    figures["server"] = {
        "precision": precision,
        "label": assay.label,
        "flags": assay.flags,
        "versions": assay.versions(),
    }
    return Result(f"http_overhead_{model}", quick, SEED, targets, figures, rows)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    result = run(arguments.quick, arguments.model, assay_of(arguments))
    result.publish()


if __name__ == "__main__":
    main()
