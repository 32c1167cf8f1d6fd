"""A PPO-like load: 16 concurrent workers, 64 responses a call, 200 calls against a real server process.

    python -m benchmarks.ppo_client [--quick] [--bundle bundles/default]

Every score must be there, in order, and equal to the score of that response asked for alone.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from pathlib import Path

import numpy as np

from assay_client import AsyncRewardClient, Scores
from assay_client.types import Prompt
from benchmarks.result import RESULTS, Result, Target
from benchmarks.server import serving
from training.config import SAMPLE_DATA

SEED = 0
WORKERS, RESPONSES = 16, 64
TOLERANCE = 1e-4


def pool() -> list[tuple[Prompt, list[str]]]:
    """Prompts with their responses, from the sample data."""
    rows = [
        json.loads(line)
        for path in sorted(SAMPLE_DATA.glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    return [(row["prompt"], row["responses"]) for row in rows]


async def drive(url: str, calls: int) -> tuple[list[tuple[list[tuple[Prompt, str]], Scores, float]], float]:
    """All calls by `WORKERS` workers; returns what was asked and answered, with the seconds of each, and of all."""
    generator = random.Random(SEED)
    prompts = pool()
    batches: list[list[tuple[Prompt, str]]] = []
    for _ in range(calls):
        # A rollout batch: 16 prompts with 4 of their responses each.
        chosen = generator.sample(prompts, 16)
        batches.append([(prompt, generator.choice(responses)) for prompt, responses in chosen for _ in range(4)])
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


def run(quick: bool, bundle: Path) -> Result:
    """Drive the load, then ask for every distinct pair alone and compare."""
    calls = 40 if quick else 200
    with serving(bundle) as url:
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
    worst = max(differences)
    target = Target(
        f"{WORKERS} workers, {RESPONSES} responses a call, {calls} calls: all scores there, in order, as one by one",
        f"{calls * RESPONSES} scores, each within {TOLERANCE:.0e} of its own",
        f"{len(differences)} scores, largest difference {worst:.1e}",
        complete and len(differences) == calls * RESPONSES and worst <= TOLERANCE,
    )
    figures = {
        "scores_per_second": len(differences) / seconds,
        "distinct_pairs": len(distinct),
        "call_seconds": {
            "median": statistics.median(latencies),
            "p95": float(np.quantile(latencies, 0.95)),
            "most": max(latencies),
        },
        "largest_difference": worst,
    }
    return Result("ppo_client", quick, SEED, [target], figures)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 calls instead of 200")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"), help="what to serve")
    arguments = parser.parse_args()
    result = run(arguments.quick, arguments.bundle)
    result.report()
    print(result.write().relative_to(RESULTS.parent.parent))


if __name__ == "__main__":
    main()
