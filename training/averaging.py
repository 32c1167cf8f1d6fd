"""One model of several trainings: the mean of their weights, which costs at serving what one of them costs.

Weight-averaged reward models (WARM, Ramé et al. 2024; model soups, Wortsman et al. 2022): trainings that begin with the
same pretrained weights and differ in seed, order or rates end in one basin of the loss, and the mean of their weights
keeps what they have in common and loses some of what each had learnt by heart.
"""

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import Checkpoint, load_checkpoint
from training.config import DataConfig
from training.run_folder import recorded_configuration

_ALIKE: dict[str, Callable[[Checkpoint], Any]] = {
    "backbone": lambda checkpoint: checkpoint.description.base_model,
    "architecture": lambda checkpoint: _shapes(checkpoint),
    "pooling": lambda checkpoint: checkpoint.description.pooling.value,
    # Rows of the head follow the order of the names, which dictionaries do not compare.
    "heads": lambda checkpoint: (tuple(checkpoint.description.heads.weights.items()), checkpoint.description.transform),
    "max_tokens": lambda checkpoint: checkpoint.description.max_tokens,
    "text format": lambda checkpoint: checkpoint.formatter.sha256,
    "data": lambda checkpoint: checkpoint.description.provenance.data_sha256,
    "beginning": lambda checkpoint: checkpoint.description.provenance.began_with,
    "settings of data (data.seed and the others)": lambda checkpoint: _data(checkpoint),
}
"""What must be the same: else the mean is of no model, or one has learnt from what another holds out."""


def average_checkpoints(folders: Sequence[Path]) -> Checkpoint:
    """The mean of the checkpoints in `folders`, two or more, as a checkpoint.

    No more than two are in memory at a time. Its provenance is that of the first, with those of all in `averaged`.

    Raises:
        CheckpointError: one is missing or damaged.
        ValueError: fewer than two, one of them twice, or they are not of one backbone, text format and data.
    """
    if len(folders) < 2:
        raise ValueError("name two trainings or more: the mean of one is that one")
    mean = load_checkpoint(folders[0])
    provenances = [mean.description.provenance]
    for count, folder in enumerate(folders[1:], start=2):
        other = load_checkpoint(folder)
        for what, of in _ALIKE.items():
            if of(other) != of(mean):
                raise ValueError(
                    f"{folder}: not the {what} of {folders[0]}; only trainings of one backbone, on the same data with "
                    "the same prompts held out, have a mean"
                )
        if other.description.provenance in provenances:
            raise ValueError(f"{folder}: the same training is named twice")
        provenances.append(other.description.provenance)
        _towards(mean, other, 1 / count)
        del other  # before the next is read
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    provenance = provenances[0].model_copy(update={"averaged": tuple(provenances), "created": created})
    return Checkpoint(mean.model, mean.formatter, mean.description.model_copy(update={"provenance": provenance}))


@torch.no_grad()
def _towards(mean: Checkpoint, other: Checkpoint, share: float) -> None:
    theirs = dict(other.model.named_parameters())
    for name, parameter in mean.model.named_parameters():
        parameter.lerp_(theirs[name], share)


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in checkpoint.model.named_parameters()}


def _data(checkpoint: Checkpoint) -> DataConfig:
    """As they are understood today: what runs recorded before there was `data.seed` lacks it."""
    description = checkpoint.description
    return recorded_configuration(Path(description.name), description.provenance.configuration).data
