"""The loop: a `transformers.Trainer` whose batches are layouts and whose loss is over pairs of scores."""

import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from service.bundle.layout import GRAPH_INPUTS
from training import processes
from training.checkpoint_error import cannot_write, nearly_full
from training.config import TrainingConfig
from training.encoding import Example
from training.evaluation import metrics
from training.evaluation.evaluate import judged_pairs
from training.judgement_weights import column_of
from training.length import length_difference
from training.model import RewardModel
from training.objective import KNOW_TIES, objective
from training.precision import bf16_if_it_helps
from training.run_folder import CHECKPOINTS
from training.scoring import score_heads
from training.sharding import LEFT_AS_IT_IS
from training.step_figures import step_figures, step_sums


def training_arguments(config: TrainingConfig, elements: int) -> TrainingArguments:
    """The Trainer's arguments for `elements` elements an epoch, on one device a process however many there are.

    Raises:
        ValueError: the elements of a step cannot be shared alike among the processes, or a tracker that is not there.
    """
    optimiser = config.optimiser
    processes.refuse_uneven(optimiser.batch_elements)
    updates_per_epoch = max(1, math.ceil(elements / optimiser.batch_elements / optimiser.accumulation))
    updates = updates_per_epoch * optimiser.epochs
    every = max(1, updates_per_epoch // optimiser.evaluations_per_epoch)
    arguments = TrainingArguments(
        output_dir=str(config.run / CHECKPOINTS),
        num_train_epochs=optimiser.epochs,
        per_device_train_batch_size=optimiser.batch_elements // processes.count(),
        ddp_find_unused_parameters=False,  # there are none, and the threshold of ties is used outside of `forward`
        gradient_accumulation_steps=optimiser.accumulation,
        lr_scheduler_type="cosine",
        # The first of them has the rate 0: an only update must not be one.
        warmup_steps=min(math.ceil(optimiser.warmup * updates), math.ceil(updates) - 1),
        max_grad_norm=optimiser.max_gradient_norm,
        bf16=bf16_if_it_helps(optimiser.bf16, "optimiser.bf16"),
        use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused where there is no GPU
        seed=optimiser.seed,
        data_seed=optimiser.seed,
        eval_strategy="steps",
        # To tell whether it got better; a second time it would count against the patience.
        eval_on_start=config.model.head == "pretrained" and not config.resume,
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=min(10, every),
        report_to=trackers_here(config.trackers),  # and TensorBoard, see `training.fit`
        run_name=config.name,
        restore_callback_states_from_checkpoint=True,  # the patience that is left
        disable_tqdm=not (config.progress and processes.is_main()),
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=False,
        **(LEFT_AS_IT_IS if optimiser.fsdp else {}),
    )
    if arguments.n_gpu > 1:  # nn.DataParallel would cut the arrays of a layout, which are no batch, into halves
        arguments._n_gpu = 1
    return arguments


def trackers_here(names: Sequence[str]) -> list[str]:
    """Those of `names` that this process sends its curves to, beside TensorBoard: none but in the main one.

    Raises:
        ValueError: one that transformers does not know, or that is not installed.
    """
    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"trackers: {name!r} is none; they are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}")
        if name not in installed:
            raise ValueError(f"trackers: {name} is not installed")
    return [name for name in names if name != "tensorboard"] if processes.is_main() else []


class RewardTrainer(Trainer):
    """A Trainer whose batches are layouts and whose loss is over pairs of scores."""

    def __init__(
        self,
        *args: Any,
        config: TrainingConfig,
        validation: Sequence[Example],
        length_slope: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._config = config
        self._validation = validation
        self._length_slope = length_slope
        self._sums: torch.Tensor | None = None  # of the steps since the last row of the log
        self.model_accepts_loss_kwargs = False  # the loss is a mean: accumulation averages it

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """See `make_optimiser`. The loop takes none from outside for a sharded model."""
        if self.optimizer is None:
            assert isinstance(self.model, RewardModel)
            self.optimizer = make_optimiser(self.model, self._config)
        return self.optimizer

    def compute_loss(  # type: ignore[override]  # outputs are never asked for
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """Mean loss of one batch as `training.examples.Collator` makes it.

        Raises:
            FloatingPointError: the loss is not finite; going on would only spread it.
        """
        reward_model = self.accelerator.unwrap_model(model)
        with self.accelerator.autocast():  # it sees to that itself, but for a sharded model
            scores = model(**{name: inputs[name] for name in GRAPH_INPUTS})[:, list(reward_model.heads.learnt)]
        loss = objective(scores, inputs, reward_model.tie_threshold, self._config.loss)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at update {self.state.global_step}; "
                "lower the learning rate or turn off bf16"
            )
        sums = step_sums(scores, inputs)
        self._sums = sums if self._sums is None else self._sums + sums
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With the loss of some steps, how often the winner scored higher in them, and by how much."""
        if "loss" in logs and self._sums is not None:
            logs.update(step_figures(self.accelerator.reduce(self._sums)))
            self._sums = None
        super().log(logs, *args, **kwargs)

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
        """See `validate`; logs what it finds."""
        assert isinstance(self.model, RewardModel)
        with self.accelerator.autocast():
            found = validate(self.model, self._validation, self._config.model.block_queries, self._length_slope)
        figures = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures


def validate(
    model: RewardModel, validation: Sequence[Example], block_queries: int, length_slope: float
) -> dict[str, float]:
    """Loss, accuracy, mean margin and mean score on the validation prompts.

    Each judgement is put to the head of its aspect, and the loss is that of Bradley and Terry with the length term,
    whatever is trained with, so that it can be compared.
    """
    scores = score_heads(model, validation, block_queries)
    pairs = judged_pairs(validation, scores, partial(column_of, heads=model.heads))
    explained = length_slope * length_difference(pairs.length_i, pairs.length_j)
    return {
        "loss": metrics.log_loss(pairs.margin + explained, pairs.preference),
        "accuracy": metrics.accuracy(pairs.margin, pairs.preference),
        "margin": float((pairs.margin * (2 * pairs.preference - 1)).mean()),
        "score_mean": float(pairs.score_i.mean()),
    }


def make_optimiser(model: RewardModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; a faster rate for a new head, no decay on biases and norms."""
    settings = config.optimiser
    decayed = [p for p in model.backbone.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in model.backbone.parameters() if p.requires_grad and p.ndim < 2]
    fast = settings.head_learning_rate
    head_rate = fast if fast is not None else 1e-3 if config.model.head == "new" else settings.learning_rate
    head = [*model.on_top.parameters(), *([model.tie_threshold] if config.loss.kind in KNOW_TIES else [])]
    return torch.optim.AdamW(
        [
            {"params": decayed, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": plain, "lr": settings.learning_rate, "weight_decay": 0.0},
            {"params": head, "lr": head_rate, "weight_decay": 0.0},
        ],
        fused=True,  # one pass over weights and moments instead of many
    )
