"""One training from its first step, or the step where it was interrupted, to the weights of least validation loss."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from training import processes
from training.config import TrainingConfig
from training.data.record import PreferenceRecord
from training.encoding import Example, records_of
from training.examples import Collator, ElementDataset, ranking
from training.judgement_weights import judgement_weights
from training.length import fit_length_slope
from training.model import RewardModel
from training.objective import KNOW_TIES, first_threshold
from training.resume import check_whole, load_best, newest_checkpoint, read_state
from training.run_folder import CHECKPOINTS, TENSORBOARD
from training.sharding import hand_over, make_room, shard
from training.trainer import RewardTrainer, make_optimiser, training_arguments

logger = logging.getLogger("assay.training")


@dataclass(frozen=True)
class FitResult:
    """What the loop leaves beside the weights in the model.

    Attributes:
        updates: optimiser steps taken.
        best_validation_loss: of the weights kept; none where nothing was learnt.
        judgements, judgements_in_first_epoch: of the training prompts, and how many of them one epoch sees: a prompt
            of more than `optimiser.max_responses` responses shows other ones in each.
        length_slope: of the length term, with `loss.length_residual`; else 0.
        tie_threshold: as `training.losses` takes it; 0 where the loss knows no ties.
        bf16: whether products were computed in bfloat16: not where the processor has no arithmetic for it.
        history: the logged rows, as the Trainer writes them.
    """

    updates: int
    best_validation_loss: float | None
    judgements: int
    judgements_in_first_epoch: int
    length_slope: float
    tie_threshold: float
    bf16: bool
    history: list[dict[str, float]]


def fit(
    model: RewardModel,
    train: Sequence[Example],
    validation: Sequence[Example],
    config: TrainingConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> FitResult:
    """Train `model` in place and leave it with the weights of least validation loss; as it came for no epochs.

    Checkpoints go to `config.run`/checkpoints, TensorBoard events to `config.run`/tensorboard.

    Raises:
        ValueError: nothing to train or to validate on, or judgements that the loss or the heads cannot learn from.
        CheckpointError: a part of the checkpoint to resume from is missing or cannot be read.
        FileNotFoundError: `config.resume` without a checkpoint.
        FloatingPointError: the loss is not finite.
    """
    if not validation or not (train or config.optimiser.epochs == 0):
        raise ValueError(f"{len(train)} prompts to train on and {len(validation)} to validate on: both need some")
    if not config.optimiser.epochs:
        judgements = sum(len(example.record.judgements) for example in train)
        return FitResult(0, None, judgements, 0, 0.0, 0.0, bf16=False, history=[])
    set_seed(config.optimiser.seed)
    records = records_of(train)
    if config.loss.kind == "plackett-luce":
        refuse_unranked(records)
    # Where nothing is learnt of ties, several processes must not wait for a gradient of it.
    model.tie_threshold.requires_grad_(config.loss.kind in KNOW_TIES)
    if config.loss.kind in KNOW_TIES:
        with torch.no_grad():
            model.tie_threshold.fill_(first_threshold(config.loss.kind, _tie_share(records)))
    weights = judgement_weights(records, model.heads, config.loss.weigh_by, config.optimiser.seed)
    length_slope = fit_length_slope(records) if config.loss.length_residual else 0.0
    dataset = ElementDataset(train, weights, config.optimiser.max_responses, config.optimiser.seed, config.data.mix)
    seen, judgements = dataset.judgements_seen, dataset.judgements
    if seen < judgements:
        logger.warning(
            "an epoch sees about %d of %d training judgements: a prompt is cut into elements of at most %d responses "
            "(optimiser.max_responses)",
            seen,
            judgements,
            config.optimiser.max_responses,
        )
    checkpoint, state = checkpoint_to_resume(model, config) if config.resume else (None, None)
    arguments = training_arguments(config, len(dataset))  # joins the other processes
    learner = model
    if config.optimiser.fsdp:
        learner = hand_over(model)
        shard(learner, arguments.bf16)
    trainer = RewardTrainer(
        model=learner,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset,  # not read: `evaluate` scores the validation examples itself
        data_collator=Collator(
            model.family, config.model.block_queries, config.loss.kind == "plackett-luce", length_slope
        ),
        callbacks=[EpochGroups(dataset), *_reporting(config), *callbacks],
        config=config,
        validation=validation,
        length_slope=length_slope,
    )
    if config.optimiser.patience:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=config.optimiser.patience))
    trainer.remove_callback(PrinterCallback)  # prints each row on standard output where there is no bar
    if state is None or not _finished(state, config.optimiser.patience):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
    if config.optimiser.fsdp:
        processes.wait()  # for the main one, which writes the weights
        make_room(model)
    best = _load_best(model, config.run, state)
    losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
    if config.model.head == "pretrained" and losses and best >= losses[0]:
        logger.warning(
            "the pretrained head had a validation loss of %.4f before, and no state of this training has less: %.4f",
            losses[0],
            best,
        )
    return FitResult(
        updates=state.global_step,
        best_validation_loss=best,
        judgements=judgements,
        judgements_in_first_epoch=seen,
        length_slope=length_slope,
        tie_threshold=float(model.tie_threshold.detach()),
        bf16=arguments.bf16,
        history=[{name: value for name, value in row.items() if math.isfinite(value)} for row in state.log_history],
    )


def _tie_share(records: Sequence[PreferenceRecord]) -> float:
    ties = votes = 0.0
    for record in records:
        for judgement in record.judgements:
            ties, votes = ties + judgement.ties, votes + judgement.votes
    return ties / votes


def refuse_unranked(records: Sequence[PreferenceRecord]) -> None:
    """Refuse records that `plackett-luce` cannot learn from.

    Raises:
        ValueError: naming one whose judgements are not those of a ranking.
    """
    for record in records:
        try:
            ranking(record.judgements)
        except ValueError as error:
            raise ValueError(f"loss.kind is plackett-luce, and record {record.id!r} does not do: {error}") from error


class EpochGroups(TrainerCallback):
    """Has the data set draw its groups for the epoch that begins.

    The loop tells its data loader, but that one forwards the epoch to its sampler only when it resumes.
    """

    def __init__(self, dataset: ElementDataset) -> None:
        self._dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """`state.epoch` counts passes, in fractions."""
        self._dataset.set_epoch(int(state.epoch or 0))


def checkpoint_to_resume(model: RewardModel, config: TrainingConfig) -> tuple[Path, TrainerState]:
    """The newest checkpoint, once all that is needed of it was read, its weights into `model`.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: a part of it, or the weights of least validation loss, are missing or cannot be read.
    """
    checkpoint = newest_checkpoint(config.run)
    state = read_state(checkpoint)
    load_best(_best(config.run, state), model)
    if not _finished(state, config.optimiser.patience):
        check_whole(checkpoint, model, make_optimiser(model, config), config.optimiser.fsdp)
    return checkpoint, state


def _finished(state: TrainerState, patience: int) -> bool:
    """Whether a run had come to its end when it was saved: the loop itself would go on after an early stop."""
    callbacks: Any = state.stateful_callbacks or {}  # by name, as they were saved
    stopping = callbacks.get(EarlyStoppingCallback.__name__, {}).get("attributes", {})
    waited = stopping.get("early_stopping_patience_counter", 0)
    return state.global_step >= state.max_steps or 0 < patience <= waited


def _load_best(model: RewardModel, run: Path, state: TrainerState) -> float:
    """Put the weights of least validation loss into `model`; returns that loss.

    The Trainer looks for them at a path it noted when it saved them, and only warns where that has moved.
    """
    load_best(_best(run, state), model)
    assert state.best_metric is not None  # there is a best checkpoint
    return float(state.best_metric)


def _best(run: Path, state: TrainerState) -> Path:
    return run / CHECKPOINTS / f"checkpoint-{state.best_global_step}"


def _reporting(config: TrainingConfig) -> list[TrainerCallback]:
    if not processes.is_main():
        return []
    writer = SummaryWriter(log_dir=str(config.run / TENSORBOARD))
    return [TensorBoardCallback(writer)]  # type: ignore[no-untyped-call]
