"""What the mean of several trainings' weights is worth beside one of them (`assay-train average`).

    python -m benchmarks.accuracy.averaging {convarg,ethics} [--trainings N] [--quick]

A recipe is trained with N seeds on the same prompts, with the same ones held out; tested are each training, the means
of N - 1 of them, each left out in turn, and the mean of all. convarg: on the development folds, within every other
debate. ethics: on the published test. Checkpoints are kept under build/accuracy/averaging.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.accuracy.cross_validation import CACHE, Asked, folder_of_code, folds_of
from benchmarks.accuracy.figures import Figures, Pooled, figures
from benchmarks.accuracy.percent import percent, points, with_interval
from benchmarks.accuracy.run import FRESH, RECIPES, ethics_slices, ethics_targets
from benchmarks.accuracy.run import asked as asked_of
from benchmarks.accuracy.train import HeldOut, tested, train_fold
from benchmarks.result import Result, Row, refuse_uncommitted
from training.averaging import average_checkpoints
from training.checkpoint import load_checkpoint, save_checkpoint
from training.pool import process_pool

PARTS = {"convarg": "convarg_development", "ethics": "ethics"}
"""Protocols by what the result is called."""
TITLES = {"convarg": "convarg strict, development folds", "ethics": "ETHICS utilitarianism, test"}
MEAN = "mean weights of {}"


def train(asked: Asked, seed: int, number: int, place: Path) -> None:
    """Train on one fold and leave the checkpoint at `place`, if it is not there."""
    if not place.is_dir():
        checkpoint, _ = train_fold(folds_of(asked.protocol, 0)[number], asked.recipe, seed)
        part = place.with_suffix(".part")
        save_checkpoint(checkpoint, part)
        part.rename(place)


def measure(part: str, trainings: int, quick: bool) -> Result:
    """All trainings, and all means of them."""
    protocol = PARTS[part]
    asked = replace(asked_of(part, trainings, quick), protocol=protocol, folds=[0] if quick else None)
    numbers = asked.numbers
    folder = folder_of_code(CACHE / "averaging")
    places = {(seed, n): folder / Path(asked.file(seed, n)).stem for seed in asked.seeds for n in numbers}
    with process_pool(torch.set_num_threads, 1) as pool:
        running = [pool.submit(train, asked, *job, place) for job, place in places.items()]
        for done in tqdm(as_completed(running), "trainings", len(running)):
            done.result()

    def run(seeds: Sequence[int]) -> list[HeldOut]:
        """The folds, tested by the mean of these seeds."""
        checkpoints = [[places[seed, n] for seed in seeds] for n in numbers]
        return [
            tested(
                load_checkpoint(alike[0]) if len(alike) == 1 else average_checkpoints(alike), folds_of(protocol, 0)[n]
            )
            for n, alike in zip(numbers, checkpoints, strict=True)
        ]

    every = range(trainings)
    groups = {
        "one training": [[seed] for seed in every],
        MEAN.format(trainings - 1): [[seed for seed in every if seed != left] for left in every],
        MEAN.format(trainings): [list(every)],
    }
    pooled = {name: _by_row(part, Pooled.of([run(seeds) for seeds in group])) for name, group in groups.items()}
    found = {name: figures(pairs) for name, pairs in pooled.items()}
    one, means = pooled["one training"], pooled[MEAN.format(trainings - 1)]
    gain = one.interval(means.right - one.right)
    rows = [Row(f"{TITLES[part]}: {name}", _line(value)) for name, value in found.items()]
    rows.append(Row(f"{TITLES[part]}: {MEAN.format(trainings - 1)} over one training", points(gain)))
    targets = []
    if part == "ethics":
        slices = {
            (who, name): figures(pairs.select(mask))
            for who, pairs in pooled.items()
            for name, mask in ethics_slices(pairs.record).items()
        }
        rows += [Row(f"{TITLES[part]}, {name}: {who}", _line(value)) for (who, name), value in slices.items()]
        every_mean = MEAN.format(trainings)
        targets = ethics_targets(found[every_mean], slices[every_mean, FRESH], f", {every_mean} trainings")
    return Result(
        f"averaging_{part}",
        quick,
        0,
        targets,
        {
            "recipe": {"name": RECIPES[part], **asked.recipe.model_dump(mode="json", exclude_unset=True)},
            "trainings": trainings,
            "gain": asdict(gain),
            **{name: asdict(value) for name, value in found.items()},
        },
        rows,
    )


def _line(found: Figures) -> str:
    each = ", ".join(percent(value) for value in found.accuracy_by_seed)
    return f"{with_interval(found.accuracy)}; each {each}; calibration error {found.ece:.3f}"


def _by_row(part: str, pooled: Pooled) -> Pooled:
    """See `benchmarks.accuracy.run.ethics`: families of scenarios are no clusters that could be drawn."""
    return replace(pooled, cluster=np.arange(len(pooled.record))) if part == "ethics" else pooled


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--trainings", type=int, default=4, help="how many, at least 3; default 4")
    parser.add_argument("--quick", action="store_true", help="one fold, and shorter where that takes long")
    flags = parser.parse_args()
    if flags.trainings < 3:
        parser.error("--trainings: at least 3, so that two can be averaged with each left out")
    refuse_uncommitted(flags.quick)
    measure(flags.part, flags.trainings, flags.quick).publish()
