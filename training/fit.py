"""The loop: a `transformers.Trainer` over layouts."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from service.bundle.layout import GRAPH_INPUTS
from training import processes
from training.checkpoint_error import cannot_write, nearly_full
from training.config import LossConfig, TrainingConfig
from training.data.record import PreferenceRecord
from training.encoding import Example, records_of
from training.evaluation import metrics
from training.evaluation.evaluate import judged_pairs
from training.examples import Collator, ElementDataset, ranking
from training.judgement_weights import column_of, judgement_weights
from training.length import fit_length_slope, length_difference
from training.model import RewardModel
from training.objective import KNOW_TIES, first_threshold, objective
from training.resume import check_whole, load_best, newest_checkpoint, read_state
from training.run_folder import CHECKPOINTS, TENSORBOARD
from training.scoring import score_heads

logger = logging.getLogger("assay.training")


@dataclass(frozen=True)
class FitResult:
    """What the loop leaves beside the weights in the model.

    Attributes:
        updates: optimiser steps taken.
        best_validation_loss: of the weights kept.
        judgements, judgements_in_first_epoch: of the training prompts, and how many of them one epoch sees: a prompt
            of more than `optimiser.max_responses` responses shows other ones in each.
        length_slope: of the length term, with `loss.length_residual`; else 0.
        tie_threshold: as `training.losses` takes it; 0 where the loss knows no ties.
        history: the logged rows, as the Trainer writes them.
    """

    updates: int
    best_validation_loss: float
    judgements: int
    judgements_in_first_epoch: int
    length_slope: float
    tie_threshold: float
    history: list[dict[str, float]]


def fit(
    model: RewardModel,
    train: Sequence[Example],
    validation: Sequence[Example],
    config: TrainingConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> FitResult:
    """Train `model` in place and leave it with the weights of least validation loss.

    Checkpoints go to `config.run`/checkpoints, TensorBoard events to `config.run`/tensorboard.

    Raises:
        ValueError: nothing to train or to validate on, or judgements that the loss or the heads cannot learn from.
        CheckpointError: a part of the checkpoint to resume from is missing or cannot be read.
        FileNotFoundError: `config.resume` without a checkpoint.
        FloatingPointError: the loss is not finite.
    """
    if not train or not validation:
        raise ValueError(f"{len(train)} prompts to train on and {len(validation)} to validate on: both need some")
    set_seed(config.optimiser.seed)
    records = records_of(train)
    if config.loss.kind == "plackett-luce":
        _refuse_unranked(records)
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
    optimiser = make_optimiser(model, config)
    checkpoint, state = checkpoint_to_resume(model, optimiser, config) if config.resume else (None, None)
    trainer = RewardTrainer(
        model=model,
        args=training_arguments(config, len(dataset)),
        train_dataset=dataset,
        eval_dataset=dataset,  # not read: `evaluate` scores the validation examples itself
        data_collator=Collator(
            model.family, config.model.block_queries, config.loss.kind == "plackett-luce", length_slope
        ),
        callbacks=[EpochGroups(dataset), *_reporting(config), *callbacks],
        optimizers=(optimiser, None),
        loss_config=config.loss,
        validation=validation,
        block_queries=config.model.block_queries,
        length_slope=length_slope,
    )
    if config.optimiser.patience:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=config.optimiser.patience))
    trainer.remove_callback(PrinterCallback)  # prints each row on standard output where there is no bar
    if state is None or not _finished(state, config.optimiser.patience):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
    return FitResult(
        updates=state.global_step,
        best_validation_loss=_load_best(model, config.run, state),
        judgements=judgements,
        judgements_in_first_epoch=seen,
        length_slope=length_slope,
        tie_threshold=float(model.tie_threshold.detach()),
        history=[{name: value for name, value in row.items() if math.isfinite(value)} for row in state.log_history],
    )


def _tie_share(records: Sequence[PreferenceRecord]) -> float:
    ties = votes = 0.0
    for record in records:
        for judgement in record.judgements:
            ties, votes = ties + judgement.ties, votes + judgement.votes
    return ties / votes


def _refuse_unranked(records: Sequence[PreferenceRecord]) -> None:
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


def checkpoint_to_resume(
    model: RewardModel, optimiser: torch.optim.Optimizer, config: TrainingConfig
) -> tuple[Path, TrainerState]:
    """The newest checkpoint, once all that is needed of it was loaded into `model` and `optimiser`.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: a part of it, or the weights of least validation loss, are missing or cannot be read.
    """
    checkpoint = newest_checkpoint(config.run)
    state = read_state(checkpoint)
    load_best(_best(config.run, state), model)
    if not _finished(state, config.optimiser.patience):
        check_whole(checkpoint, model, optimiser)
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


def training_arguments(config: TrainingConfig, elements: int) -> TrainingArguments:
    """The Trainer's arguments for `elements` elements an epoch, on one device a process however many there are.

    Raises:
        ValueError: the elements of a step cannot be shared alike among the processes.
    """
    optimiser = config.optimiser
    processes.refuse_uneven(optimiser.batch_elements)
    updates_per_epoch = max(1, math.ceil(elements / optimiser.batch_elements / optimiser.accumulation))
    every = max(1, updates_per_epoch // optimiser.evaluations_per_epoch)
    arguments = TrainingArguments(
        output_dir=str(config.run / CHECKPOINTS),
        num_train_epochs=optimiser.epochs,
        per_device_train_batch_size=optimiser.batch_elements // processes.count(),
        ddp_find_unused_parameters=False,  # there are none, and the threshold of ties is used outside of `forward`
        gradient_accumulation_steps=optimiser.accumulation,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(optimiser.warmup * updates_per_epoch * optimiser.epochs),
        max_grad_norm=optimiser.max_gradient_norm,
        bf16=optimiser.bf16,
        use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused where there is no GPU
        seed=optimiser.seed,
        data_seed=optimiser.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=min(10, every),
        report_to=[],  # see `_reporting`
        restore_callback_states_from_checkpoint=True,  # the patience that is left
        disable_tqdm=not (config.progress and processes.is_main()),
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:  # nn.DataParallel would cut the arrays of a layout, which are no batch, into halves
        arguments._n_gpu = 1
    return arguments


class RewardTrainer(Trainer):
    """A Trainer whose batches are layouts and whose loss is over pairs of scores."""

    def __init__(
        self,
        *args: Any,
        loss_config: LossConfig,
        validation: Sequence[Example],
        block_queries: int,
        length_slope: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._loss_config = loss_config
        self._validation = validation
        self._block_queries = block_queries
        self._length_slope = length_slope
        self.model_accepts_loss_kwargs = False  # the loss is a mean: accumulation averages it

    def compute_loss(  # type: ignore[override]  # outputs are never asked for
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """Mean loss of one batch as `training.examples.Collator` makes it.

        Raises:
            FloatingPointError: the loss is not finite; going on would only spread it.
        """
        reward_model = self.accelerator.unwrap_model(model)
        scores = model(**{name: inputs[name] for name in GRAPH_INPUTS})[:, list(reward_model.heads.learnt)]
        loss = objective(scores, inputs, reward_model.tie_threshold, self._loss_config)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at update {self.state.global_step}; "
                "lower the learning rate or turn off bf16"
            )
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the state of the loop.

        Raises:
            CheckpointError: it cannot be written; what was begun is taken away, and the checkpoints before it stay.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # each writer has its own for a full disk
            if isinstance(error, RuntimeError) and not nearly_full(folder):
                raise
            if processes.is_main():
                shutil.rmtree(folder, ignore_errors=True)
            raise cannot_write(folder, error) from error

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Score the validation prompts; logs loss, accuracy, mean margin and mean score.

        Each judgement is put to the head of its aspect, and the loss is that of Bradley and Terry with the length term,
        whatever is trained with, so that it can be compared.
        """
        assert isinstance(self.model, RewardModel)
        scores = score_heads(self.model, self._validation, self._block_queries)
        pairs = judged_pairs(self._validation, scores, partial(column_of, heads=self.model.heads))
        explained = self._length_slope * length_difference(pairs.length_i, pairs.length_j)
        figures = {
            f"{metric_key_prefix}_loss": metrics.log_loss(pairs.margin + explained, pairs.preference),
            f"{metric_key_prefix}_accuracy": metrics.accuracy(pairs.margin, pairs.preference),
            f"{metric_key_prefix}_margin": float((pairs.margin * (2 * pairs.preference - 1)).mean()),
            f"{metric_key_prefix}_score_mean": float(pairs.score_i.mean()),
        }
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures


def make_optimiser(model: RewardModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; a faster rate for the new head, no decay on biases and norms."""
    settings = config.optimiser
    decayed = [p for p in model.backbone.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in model.backbone.parameters() if p.requires_grad and p.ndim < 2]
    head = [*model.head.parameters(), *([model.tie_threshold] if config.loss.kind in KNOW_TIES else [])]
    return torch.optim.AdamW(
        [
            {"params": decayed, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": plain, "lr": settings.learning_rate, "weight_decay": 0.0},
            {"params": head, "lr": settings.head_learning_rate, "weight_decay": 0.0},
        ]
    )
