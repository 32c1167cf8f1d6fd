"""The engine without a server: tokens in, seconds out. Run by Assay's own environment, asked over its standard input.

    python -m benchmarks.serving.engine_alone --bundle BUNDLE [--provider openvino] [--precision bf16]

Each line in is JSON: `{"ids": [[...], ...], "batch_tokens": 4096}`. The items are planned into batches in their order,
each of at most that many computed tokens, and run one after the other; planning is in the time, as it is in a server.
Each line out is `{"seconds": s, "scores": [...]}`; the first line out says that it is ready.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle.layout import IntArray, Layout, plan_layout
from service.bundle.reader import Bundle, read_bundle
from service.engine.cpus import usable_cpus
from service.engine.load import Wanted, load_session
from service.engine.session import Resources


def batches(sequences: Sequence[IntArray], budget: int, bundle: Bundle) -> list[list[IntArray]]:
    """Items in order, in runs that compute at most `budget` tokens; what an item shares with the one before is free."""
    found: list[list[IntArray]] = []
    used = budget
    for sequence in sequences:
        shared = _shared(found[-1][-1], sequence) if found and bundle.manifest.family == "causal" else 0
        cost = len(sequence) - shared
        if used + cost > budget:
            found.append([])
            used, cost = 0, len(sequence)
        found[-1].append(sequence)
        used += cost
    return found


def _shared(before: IntArray, after: IntArray) -> int:
    """Length of the common beginning."""
    shorter = min(len(before), len(after))
    different = np.flatnonzero(before[:shorter] != after[:shorter])
    return int(different[0]) if len(different) else shorter


def score(ids: list[list[int]], budget: int, bundle: Bundle, run: Callable[[Layout], Any]) -> tuple[float, list[float]]:
    """Seconds and raw scores of all items."""
    sequences = [np.array(one, dtype=np.int64) for one in ids]
    began = time.perf_counter()
    scores: list[float] = []
    for batch in batches(sequences, budget, bundle):
        layout = plan_layout(batch, bundle.manifest.family, block_queries=bundle.manifest.block_queries)
        scores += run(layout)[:, 0].tolist()
    return time.perf_counter() - began, scores


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--provider", default="openvino")
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    wanted = Wanted(arguments.provider, arguments.precision, resources=Resources(threads=usable_cpus()))
    run = load_session(bundle, wanted).session.run
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds, scores = score(asked["ids"], asked["batch_tokens"], bundle, run)
        print(json.dumps({"seconds": seconds, "scores": scores}), flush=True)


if __name__ == "__main__":
    main()
