"""One training on ready-made splits, and what it says of the pairs that were held out."""

import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.accuracy.folds import Fold
from service.bundle.calibration import Calibration
from training.checkpoint import Checkpoint
from training.config import TrainingConfig
from training.data import Splits
from training.data.annotators import with_posteriors
from training.encoding import encode_records
from training.evaluation.evaluate import calibrate, judged_pairs
from training.evaluation.metrics import FloatArray, IntArray
from training.fit import FitResult, fit
from training.new_checkpoint import new_checkpoint
from training.prepare import PreparedData, hash_records
from training.scoring import score_examples, score_heads


@dataclass(frozen=True)
class HeldOut:
    """The decided pairs of a fold's test in order, and how their scores came about.

    Attributes:
        record, cluster, source: of each pair: its record's id, what belongs together in an interval, the data set.
        preference: share of votes for the first.
        lengths: (P, 2) characters.
        margins: (P, members) differences of scores, one column for a single head.
        temperature: fitted on the fold's calibration prompts.
        updates, seconds, validation_loss: of the training, if it is of one.
    """

    record: list[str]
    cluster: list[str]
    source: list[str]
    preference: FloatArray
    lengths: IntArray
    margins: FloatArray
    temperature: float
    updates: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None

    def dump(self, path: Path) -> None:
        """Write whole or not at all."""
        content = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()
        }
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `dump` wrote."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content |= {name: np.array(content[name], dtype=np.float64) for name in ("preference", "margins")}
        return cls(**{**content, "lengths": np.array(content["lengths"], dtype=np.int64).reshape(-1, 2)})


def train_checkpoint(splits: Splits, config: TrainingConfig) -> tuple[Checkpoint, Calibration, FitResult]:
    """Train on ready-made splits; returns the model, its calibration on the validation part, and how it went."""
    checkpoint = new_checkpoint(config, PreparedData(splits, hash_records([*splits.train, *splits.validation]), {}))
    train, validation = (
        encode_records(part, checkpoint.formatter, config.progress) for part in (splits.train, splits.validation)
    )
    result = fit(checkpoint.model, train, validation, config)
    block = config.model.block_queries
    return checkpoint, calibrate(validation, score_examples(checkpoint.model, validation, block)), result


def train_and_test(fold: Fold, recipe: TrainingConfig, seed: int) -> HeldOut:
    """Train by a recipe on a fold and score its test; `recipe` says all but the data, the run's folder and the seed."""
    began = time.monotonic()
    checkpoint, result = train_fold(fold, recipe, seed)
    held_out = tested(checkpoint, fold)
    return replace(
        held_out,
        updates=result.updates,
        seconds=time.monotonic() - began,
        validation_loss=result.best_validation_loss,
    )


def train_fold(fold: Fold, recipe: TrainingConfig, seed: int) -> tuple[Checkpoint, FitResult]:
    """Train by a recipe on a fold."""
    train = with_posteriors(fold.train)[0] if recipe.data.annotators == "dawid-skene" else list(fold.train)
    splits = Splits(train, list(fold.validation), list(fold.test))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, _, result = train_checkpoint(splits, in_place(recipe, Path(folder), seed))
    return checkpoint, result


def tested(checkpoint: Checkpoint, fold: Fold) -> HeldOut:
    """What a model says of a fold's test, with the temperature of its calibration prompts."""
    calibration, test = (encode_records(part, checkpoint.formatter, False) for part in (fold.calibration, fold.test))
    block, heads = checkpoint.description.block_queries, checkpoint.description.heads
    temperature = calibrate(calibration, score_examples(checkpoint.model, calibration, block)).temperature
    scores = score_heads(checkpoint.model, test, block)
    pairs = judged_pairs(test, [part[:, 0] for part in scores])
    decided = pairs.preference != 0.5
    members = [judged_pairs(test, [part[:, column] for part in scores]).margin[decided] for column in heads.learnt]
    records = [test[number].record for number in pairs.example[decided]]
    return HeldOut(
        record=[record.id for record in records],
        cluster=[record.split_key for record in records],
        source=[record.source for record in records],
        preference=pairs.preference[decided],
        lengths=np.stack([pairs.length_i, pairs.length_j], axis=1)[decided],
        margins=np.stack(members, axis=1),
        temperature=temperature,
    )


def in_place(recipe: TrainingConfig, run: Path, seed: int) -> TrainingConfig:
    """A recipe for records that are there already: with a folder to run in, a seed, and no bars."""
    return recipe.model_copy(
        update={
            "run": run,
            "data": recipe.data.model_copy(update={"train": ("public",)}),
            "optimiser": recipe.optimiser.model_copy(update={"seed": seed}),
            "progress": False,
        }
    )
