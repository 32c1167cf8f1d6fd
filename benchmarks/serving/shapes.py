"""What rounding the shapes of batches up gains: OpenVINO compiles for every shape, and no two batches are alike.

    python -m benchmarks.serving.shapes [--quick] [--model smollm2|minilm] [--precision P]

The engine in one process, compiled twice: given batches as they are planned, and in few shapes as the server gives
them. Both take every batch in turn; the first third fills what is kept and does not count. Batches are of real pairs at
their own lengths, one alone or as many as make `BATCH_TOKENS`, and none comes twice.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.serving.models import MAX_TOKENS
from benchmarks.serving.spreads import ratios, spread, written
from benchmarks.serving.work import Work
from service.bundle.layout import Layout, plan_layout
from service.bundle.manifest import Manifest
from service.bundle.reader import read_bundle
from service.engine.cpus import usable_cpus
from service.engine.openvino_session import OpenVinoSession
from service.engine.shapes import in_few_shapes

SEED = 4
BATCH_TOKENS = 2048
BATCHES = {"one item": (0, 150), "batches of 2,048 tokens": (BATCH_TOKENS, 60)}
"""Tokens that a batch is filled to, and how many batches."""
PARTS = 5
"""A ratio is that of the seconds of one part of the batches."""


class AsPlanned(OpenVinoSession):
    """OpenVINO, given every batch in a shape of its own."""

    def shaped(self, layout: Layout) -> Layout:
        """As it is."""
        return layout


def batches(work: Work, manifest: Manifest, tokens: int, count: int) -> Iterator[Layout]:
    """`count` batches of fresh items, each filled until it holds `tokens`."""
    singles = (items[0].ids for requests in work.rounds("mixed", SEED, 20, False) for items in requests)
    for _ in range(count):
        sequences = [np.array(next(singles), dtype=np.int64)]
        while sum(map(len, sequences)) < tokens:
            sequences.append(np.array(next(singles), dtype=np.int64))
        yield plan_layout(sequences, manifest.family, block_queries=manifest.block_queries)


def compare(arms: dict[str, OpenVinoSession], layouts: list[Layout]) -> dict[str, Any]:
    """Seconds of both arms on every batch, from the second third on."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number, layout in enumerate(layouts):
        for name, arm in sorted(arms.items(), reverse=bool(number % 2)):
            began = time.perf_counter()
            arm.run(layout)
            seconds[name].append(time.perf_counter() - began)
    parts = {
        name: [float(part.sum()) for part in np.array_split(np.array(times[len(times) // 3 :]), PARTS)]
        for name, times in seconds.items()
    }
    few = [in_few_shapes(layout) for layout in layouts]
    real = sum(layout.tokens for layout in layouts)
    return {
        "batches": len(layouts),
        "tokens": real,
        "more_tokens": sum(len(layout.input_ids) for layout in few) / real - 1,
        "more_cells": sum(layout.cells for layout in few) / sum(layout.cells for layout in layouts) - 1,
        "ms": {name: spread([1000 * one for one in times[len(times) // 3 :]]) for name, times in seconds.items()},
        "speedup": ratios(parts["as planned"], parts["in few shapes"]),
    }


def run(quick: bool, model: str, precision: str) -> Result:
    """Both kinds of batches."""
    work = Work.of(model)
    bundle = read_bundle(work.model.bundle)
    threads = usable_cpus()
    arms = {
        "as planned": AsPlanned(bundle, precision, threads),
        "in few shapes": OpenVinoSession(bundle, precision, threads),
    }
    found = {
        name: compare(arms, list(batches(work, bundle.manifest, tokens, count // 3 if quick else count)))
        for name, (tokens, count) in BATCHES.items()
    }
    label = f"{model} in {precision}"
    targets = [
        Target(
            f"{label}, {name}: speed in few shapes over that in a shape for each",
            "above 1x",
            written(one["speedup"], "x"),
            one["speedup"]["median"] > 1,
            True,
        )
        for name, one in found.items()
    ]
    rows = [
        Row(f"{label}, {name}: what few shapes add", f"{one['more_tokens']:.1%} tokens, {one['more_cells']:.1%} cells")
        for name, one in found.items()
    ]
    return Result(f"shapes_{model}_{precision}", quick, SEED, targets, {"kinds": found}, rows)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the batches")
    parser.add_argument("--model", choices=sorted(MAX_TOKENS), default="minilm")
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    run(arguments.quick, arguments.model, arguments.precision).publish()


if __name__ == "__main__":
    main()
