"""A PPO-like load: 16 concurrent workers, 64 distinct responses a call, 200 calls against a real server process.

    python -m benchmarks.ppo_client [--quick] [--bundle bundles/default]

Every score must be there, in order, and equal to the score of that response asked for alone; and the scores must
differ, or they could be exchanged unseen. The full form then does the same, in fewer calls, to a causal model.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay_client import AsyncRewardClient, Scores
from assay_client.types import Prompt
from benchmarks.accuracy.train import train_checkpoint
from benchmarks.result import Result, Target, refuse_uncommitted
from benchmarks.server import serving
from training.config import SAMPLE_DATA, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import Splits, read_records, shuffle_sides, split
from training.encoding import encode_records
from training.evaluation.evaluate import evaluate
from training.export.bundle import export_bundle
from training.scoring import score_examples

SEED = 0
WORKERS, RESPONSES, PER_PROMPT = 16, 64, 4
CAUSAL_CALLS = 32
"""A decoder of 135 M parameters scores a few responses a second on two cores."""
TOLERANCE = 1e-4


def pool() -> list[tuple[Prompt, list[str]]]:
    """Prompts of the sample data with their different responses, where there are enough of them."""
    rows = [
        json.loads(line)
        for path in sorted(SAMPLE_DATA.glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    different = [(row["prompt"], list(dict.fromkeys(row["responses"]))) for row in rows]
    return [(prompt, responses) for prompt, responses in different if len(responses) >= PER_PROMPT]


def rollout(prompts: Sequence[tuple[Prompt, list[str]]], generator: random.Random) -> list[tuple[Prompt, str]]:
    """One call of `RESPONSES` distinct pairs: different prompts with `PER_PROMPT` different responses each."""
    chosen = generator.sample(prompts, RESPONSES // PER_PROMPT)
    return [(prompt, response) for prompt, responses in chosen for response in generator.sample(responses, PER_PROMPT)]


async def drive(url: str, calls: int) -> tuple[list[tuple[list[tuple[Prompt, str]], Scores, float]], float]:
    """All calls by `WORKERS` workers; returns what was asked and answered, with the seconds of each, and of all."""
    generator = random.Random(SEED)
    prompts = pool()
    batches: list[list[tuple[Prompt, str]]] = []
    for _ in range(calls):
        batches.append(rollout(prompts, generator))
    waiting = iter(batches)
    done: list[tuple[list[tuple[Prompt, str]], Scores, float]] = []

    async def worker(client: AsyncRewardClient) -> None:
        for batch in waiting:
            began = time.perf_counter()
            scores = await client.score_pairs(batch)
            done.append((batch, scores, time.perf_counter() - began))

    async with AsyncRewardClient(url, timeout=900) as client:
        await client.model()
        began = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(WORKERS)))
        return done, time.perf_counter() - began


async def score_alone(url: str, pairs: list[tuple[Prompt, str]]) -> list[float]:
    """Every pair in a request of its own, one after the other."""
    async with AsyncRewardClient(url, timeout=900) as client:
        return [(await client.score_pairs([pair])).scores[0] for pair in pairs]


@dataclass(frozen=True)
class Load:
    """What a load against one bundle gave: targets, and figures for the record."""

    targets: list[Target]
    figures: dict[str, Any]


def load(bundle: Path, kind: str, calls: int) -> Load:
    """Drive the load, then ask for every distinct pair alone and compare."""
    with serving(bundle, precision="fp32") as url:
        done, seconds = asyncio.run(drive(url, calls))
        distinct = {json.dumps(pair): pair for batch, _, _ in done for pair in batch}
        alone = dict(zip(distinct, asyncio.run(score_alone(url, list(distinct.values()))), strict=True))
    differences = [
        abs(score - alone[json.dumps(pair)])
        for batch, scores, _ in done
        for pair, score in zip(batch, scores, strict=True)
    ]
    latencies = [taken for _, _, taken in done]
    complete = len(done) == calls and all(len(scores) == RESPONSES for _, scores, _ in done)
    worst, spread = max(differences), float(np.std(list(alone.values())))
    within = within_prompts(distinct.values(), alone.values())
    targets = [
        Target(
            f"{kind}, {WORKERS} workers, {RESPONSES} distinct responses a call, {calls} calls: all scores there, in "
            "order, as one by one",
            f"{calls * RESPONSES} scores, each within {TOLERANCE:.0e} of its own",
            f"{len(differences)} scores, largest difference {worst:.1e}",
            complete and len(differences) == calls * RESPONSES and worst <= TOLERANCE,
        ),
        Target(
            f"{kind}, the compared scores differ from each other, also within a prompt",
            f"standard deviations at least {100 * TOLERANCE:g}",
            f"{spread:.3f}, within a prompt {within:.3f}",
            min(spread, within) >= 100 * TOLERANCE,
            detail=True,
        ),
    ]
    figures = {
        "calls": calls,
        "scores_per_second": len(differences) / seconds,
        "distinct_pairs": len(distinct),
        "call_seconds": {
            "median": statistics.median(latencies),
            "p95": float(np.quantile(latencies, 0.95)),
            "most": max(latencies),
        },
        "largest_difference": worst,
        "score_spread": spread,
        "score_spread_within_prompts": within,
    }
    return Load(targets, figures)


def within_prompts(pairs: Iterable[tuple[Prompt, str]], scores: Iterable[float]) -> float:
    """Median over prompts of the standard deviation of their responses' scores."""
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), score in zip(pairs, scores, strict=True):
        by_prompt.setdefault(json.dumps(prompt), []).append(score)
    return statistics.median(float(np.std(values)) for values in by_prompt.values())


def causal_bundle(work: Path) -> Path:
    """SmolLM2 on a few prompts of the sample data, exported: enough that its scores differ."""
    records = [record for path in sorted(SAMPLE_DATA.glob("*.jsonl")) for record in read_records(path).records]
    whole = split([shuffle_sides(record, SEED) for record in records], (0.7, 0.1, 0.2), SEED)
    checkpoint, calibration, _ = train_checkpoint(
        Splits(whole.train[:40], whole.validation[:12], whole.test[:20]),
        TrainingConfig(
            run=work / "run",
            progress=False,
            model=ModelConfig(backbone="smollm2", max_tokens=512),
            optimiser=OptimiserConfig(learning_rate=2e-5, epochs=1, batch_elements=4, patience=0, seed=SEED),
        ),
    )
    test = encode_records(whole.test[:20], checkpoint.formatter, False)
    scores = score_examples(checkpoint.model, test, checkpoint.description.block_queries)
    export_bundle(checkpoint, calibration, evaluate(test, scores, calibration.temperature), work / "bundle")
    return work / "bundle"


def run(quick: bool, bundle: Path) -> Result:
    """The load against `bundle`, and in the full form against a causal one as well."""
    loads = {"default bundle": load(bundle, "default bundle", 40 if quick else 200)}
    if not quick:
        with tempfile.TemporaryDirectory() as work:
            loads["causal bundle"] = load(causal_bundle(Path(work)), "causal bundle", CAUSAL_CALLS)
    targets = [target for each in loads.values() for target in each.targets]
    return Result("ppo_client", quick, SEED, targets, {name: each.figures for name, each in loads.items()})


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 calls instead of 200, and no causal bundle")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"), help="what to serve")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    result = run(arguments.quick, arguments.bundle)
    result.publish()


if __name__ == "__main__":
    main()
