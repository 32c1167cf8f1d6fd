"""Mixed load for a long time: memory, descriptors and threads of the server must not grow.

    python -m benchmarks.serving.soak [--minutes 30] [--model smollm2|minilm] [--provider P] [--precision P]

Four kinds of callers at once: groups of eight, pairs, single items of real lengths, small interactive ones.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.result import Result, Target, refuse_uncommitted
from benchmarks.serving.arms import Arm, started
from benchmarks.serving.closed_loop import checked
from benchmarks.serving.options import add_options, assay_of
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.rendering import Item
from benchmarks.serving.spreads import slope
from benchmarks.serving.work import Work

SEED = 3
KINDS = ("best-of-8", "pairs", "mixed", "interactive")
CALLERS = 2
"""For each kind."""
MOST_SLOPE = 0.02
"""Growth of resident memory over the part after warm-up, as a share of its mean there."""
WARM_UP_MINUTES = 8.0
"""What does not count: OpenVINO compiles for new shapes until it keeps as many as it may, in int8 for so long."""
QUICK_MINUTES = 11.0
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Sample:
    """Attributes: seconds since the start, resident MiB, open descriptors, threads."""

    seconds: float
    resident: float
    descriptors: int
    threads: int


def sample(pid: int, began: float) -> Sample:
    """Read /proc."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        if ":" in line
    )
    return Sample(
        time.monotonic() - began,
        int(status["VmRSS"].split()[0]) / 1024,
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        int(status["Threads"]),
    )


async def load(arm: Arm, work: dict[str, Iterator[list[Item]]], seconds: float) -> tuple[list[Sample], int]:
    """Samples over the time, and the number of scores; every reply is checked."""
    began = time.monotonic()
    samples: list[Sample] = []
    scored = 0
    timeout = aiohttp.ClientTimeout(total=300)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(arm.url, timeout=timeout, headers=headers) as session:

        async def caller(requests: Iterator[list[Item]]) -> None:
            nonlocal scored
            for items in requests:
                if time.monotonic() - began > seconds:
                    return
                replies = []
                for call in arm.peer.calls(items):
                    async with session.post(call.path, data=call.body) as reply:
                        replies.append(await reply.read())
                scored += len(checked(arm, items, replies))

        async def watch() -> None:
            while time.monotonic() - began <= seconds:
                samples.append(sample(arm.process.pid, began))
                await asyncio.sleep(SAMPLE_SECONDS)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            for requests in work.values():
                for _ in range(CALLERS):
                    group.create_task(caller(requests))
    return samples, scored


def endless(work: Work, kind: str) -> Iterator[list[Item]]:
    """Requests of one kind, never the same twice."""
    for seed in itertools.count(SEED):
        for part in work.rounds(kind, seed, 4, True):
            yield from part


def judged(samples: list[Sample], minutes: float) -> tuple[list[Target], dict[str, float]]:
    """Growth after the warm-up against what is allowed."""
    steady = [one for one in samples if one.seconds >= 60 * WARM_UP_MINUTES]
    times, resident = [one.seconds for one in steady], [one.resident for one in steady]
    growth = slope(times, resident) * (times[-1] - times[0]) / (sum(resident) / len(resident))
    third = max(1, len(steady) // 3)
    descriptors = max(one.descriptors for one in steady[-third:]) - max(one.descriptors for one in steady[:third])
    threads = max(one.threads for one in steady[-third:]) - max(one.threads for one in steady[:third])
    targets = [
        Target(
            f"{minutes:g} minutes of mixed load: resident memory",
            f"grows less than {MOST_SLOPE:.0%} after warm-up",
            f"{growth:+.2%} of {sum(resident) / len(resident):.0f} MiB",
            growth < MOST_SLOPE,
        ),
        Target(
            f"{minutes:g} minutes of mixed load: descriptors and threads",
            "no more in the last third than in the first",
            f"{descriptors:+d} descriptors, {threads:+d} threads",
            descriptors <= 0 and threads <= 0,
        ),
    ]
    return targets, {"growth": growth, "mean_mib": sum(resident) / len(resident), "most_mib": max(resident)}


def run(model: str, assay: Assay, minutes: float, quick: bool) -> Result:
    """Load one server for so many minutes."""
    work = Work.of(model)
    with started(assay, work.model) as arm, arm.turn():
        samples, scored = asyncio.run(load(arm, {kind: endless(work, kind) for kind in KINDS}, 60 * minutes))
    targets, figures = judged(samples, minutes)
    every = max(1, len(samples) // 60)
    kept = [[round(one.seconds), round(one.resident), one.descriptors, one.threads] for one in samples[::every]]
    details = {"scores": scored, "server": assay.label, "versions": assay.versions(), **figures}
    return Result(f"soak_{model}", quick, SEED, targets, {**details, "seconds_mib_descriptors_threads": kept})


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--minutes", type=float, help=f"default: 30, quick {QUICK_MINUTES:g}; over {WARM_UP_MINUTES:g}")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    minutes = arguments.minutes or (QUICK_MINUTES if arguments.quick else 30)
    if minutes <= WARM_UP_MINUTES:
        parser.error(f"--minutes must be over {WARM_UP_MINUTES:g}: those do not count")
    result = run(arguments.model, assay_of(arguments), minutes, arguments.quick or minutes < 30)
    result.publish()


if __name__ == "__main__":
    main()
