"""The loop: a `transformers.Trainer` over layouts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from service.bundle.layout import GRAPH_INPUTS
from training.config import LossConfig, TrainingConfig
from training.evaluation import metrics
from training.evaluation.evaluate import judged_pairs
from training.examples import Collator, ElementDataset, Example
from training.losses import bradley_terry, centring, mean_by_element
from training.model import RewardModel
from training.scoring import score_examples


@dataclass(frozen=True)
class FitResult:
    """What the loop leaves beside the weights in the model.

    Attributes:
        updates: optimiser steps taken.
        best_validation_loss: of the weights kept.
        history: the logged rows, as the Trainer writes them.
    """

    updates: int
    best_validation_loss: float
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
        ValueError: nothing to train or to validate on.
        FileNotFoundError: `config.resume` without a checkpoint.
        FloatingPointError: the loss is not finite.
    """
    if not train or not validation:
        raise ValueError(f"{len(train)} prompts to train on and {len(validation)} to validate on: both need some")
    set_seed(config.optimiser.seed)
    dataset = ElementDataset(train, config.optimiser.max_responses, config.optimiser.seed)
    trainer = RewardTrainer(
        model=model,
        args=training_arguments(config, len(dataset)),
        train_dataset=dataset,
        eval_dataset=dataset,  # not read: `evaluate` scores the validation examples itself
        data_collator=Collator(model.family, config.model.block_queries),
        callbacks=list(callbacks),
        optimizers=(_optimiser(model, config), None),
        loss_config=config.loss,
        validation=validation,
        block_queries=config.model.block_queries,
    )
    if config.optimiser.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=config.optimiser.patience))
    checkpoint = None
    if config.resume:
        folder = checkpoints(config.run)
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        if checkpoint is None:
            raise FileNotFoundError(f"{folder}: no checkpoint to resume from; leave out --resume to start anew")
    trainer.train(resume_from_checkpoint=checkpoint)
    best = trainer.state.best_metric
    return FitResult(trainer.state.global_step, math.nan if best is None else float(best), trainer.state.log_history)


def checkpoints(run: Path) -> Path:
    """Where a run keeps what it needs to resume."""
    return run / "checkpoints"


def training_arguments(config: TrainingConfig, elements: int) -> TrainingArguments:
    """The Trainer's arguments for `elements` elements an epoch."""
    optimiser = config.optimiser
    updates_per_epoch = max(1, math.ceil(elements / optimiser.batch_elements / optimiser.accumulation))
    every = max(1, updates_per_epoch // optimiser.evaluations_per_epoch)
    return TrainingArguments(
        output_dir=str(checkpoints(config.run)),
        num_train_epochs=optimiser.epochs,
        per_device_train_batch_size=optimiser.batch_elements,
        gradient_accumulation_steps=optimiser.accumulation,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(optimiser.warmup * updates_per_epoch * optimiser.epochs),
        max_grad_norm=optimiser.max_gradient_norm,
        bf16=optimiser.bf16,
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
        report_to=["tensorboard"],
        disable_tqdm=not config.progress,
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
    )


class RewardTrainer(Trainer):
    """A Trainer whose batches are layouts and whose loss is over pairs of scores."""

    def __init__(
        self,
        *args: Any,
        loss_config: LossConfig,
        validation: Sequence[Example],
        block_queries: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._loss_config = loss_config
        self._validation = validation
        self._block_queries = block_queries
        self.model_accepts_loss_kwargs = False  # the loss is a mean: accumulation averages it

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """Mean loss of one batch as `training.examples.Collator` makes it.

        Raises:
            FloatingPointError: the loss is not finite; going on would only spread it.
        """
        scores = model(**{name: inputs[name] for name in GRAPH_INPUTS})[:, 0]
        score_i, score_j = scores[inputs["first"]], scores[inputs["second"]]
        settings = self._loss_config
        margin = inputs["margin"] * settings.margin_weight if settings.margin_weight else None
        values = bradley_terry(score_i, score_j, inputs["preference"], margin, settings.label_smoothing)
        if settings.centring:
            values = values + settings.centring * centring(score_i, score_j)
        loss = mean_by_element(values, inputs["element"])
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at update {self.state.global_step}; lower the learning rate or turn off bf16"
            )
        return loss

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Score the validation prompts; logs loss, accuracy, mean margin and spread of the scores."""
        scores = score_examples(self.model, self._validation, self._block_queries)
        pairs = judged_pairs(self._validation, scores)
        figures = {
            f"{metric_key_prefix}_loss": metrics.log_loss(pairs.margin, pairs.preference),
            f"{metric_key_prefix}_accuracy": metrics.accuracy(pairs.margin, pairs.preference),
            f"{metric_key_prefix}_margin": float((pairs.margin * (2 * pairs.preference - 1)).mean()),
            f"{metric_key_prefix}_score_mean": float(pairs.score_i.mean()),
        }
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures


def _optimiser(model: RewardModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; a faster rate for the new head, no decay on biases and norms."""
    settings = config.optimiser
    decayed = [p for p in model.backbone.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in model.backbone.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": decayed, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": plain, "lr": settings.learning_rate, "weight_decay": 0.0},
            {"params": list(model.head.parameters()), "lr": settings.head_learning_rate, "weight_decay": 0.0},
        ]
    )
