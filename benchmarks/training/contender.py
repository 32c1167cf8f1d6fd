"""One contender on one workload, in a process of its own: a line of JSON with the time and the loss of every step.

python -m benchmarks.training.contender assay|trl|padded WORKLOAD [--steps N] [--fp32]
"""

import argparse
import json
import logging
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from torch.nn.functional import logsigmoid
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer as TrlRewardTrainer

from benchmarks.training.padded import PaddedRewardModel, pairs_of, rows_of
from benchmarks.training.work import WORKLOADS, Workload, examples_of, untrained
from training.checkpoint import Checkpoint
from training.config import LossConfig, TrainingConfig
from training.encoding import Example
from training.examples import Collator, ElementDataset
from training.judgement_weights import judgement_weights
from training.precision import computes_bf16
from training.trainer import RewardTrainer, make_optimiser, training_arguments

RATE = 1e-5


class Timer(TrainerCallback):
    """Seconds and loss of every step of a Trainer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins once its batch is there; making it belongs to the step before."""
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, *, logs: Any = None, **_: Any) -> None:
        """After every step: `logging_steps` is 1."""
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The weights are new."""
        self.seconds.append(time.perf_counter() - self._began)


class AssayTrainer(RewardTrainer):
    """Assay's, with the steps in their order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset)


class TrlTrainer(TrlRewardTrainer):
    """TRL's, with the pairs in their order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset)


def assay(config: TrainingConfig, checkpoint: Checkpoint, examples: Sequence[Example], timer: Timer) -> None:
    """As `assay-train fit` trains."""
    model = checkpoint.model
    weights = judgement_weights([example.record for example in examples], model.heads)
    dataset = ElementDataset(examples, weights, config.optimiser.max_responses, config.optimiser.seed)
    arguments = training_arguments(config, len(dataset))
    for name, value in _TRAINER.items():
        setattr(arguments, name, value)
    optimiser = make_optimiser(model, config)
    for group in optimiser.param_groups:
        group["lr"] = RATE
    trainer = AssayTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=Collator(model.family, config.model.block_queries),
        callbacks=[timer],
        optimizers=(optimiser, None),
        config=config.model_copy(update={"loss": LossConfig(centring=0)}),
        validation=[],
        length_slope=0.0,
    )
    trainer.train()


_TRAINER: dict[str, Any] = {
    "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no",
    "load_best_model_at_end": False,
}  # fmt: skip


def trl(config: TrainingConfig, checkpoint: Checkpoint, examples: Sequence[Example], timer: Timer) -> None:
    """TRL's RewardTrainer on the same token ids. Gradients are kept, not computed again, as with the others."""
    pairs = pairs_of(examples)
    workload_pairs = len(examples[0].record.judgements) * config.optimiser.batch_elements
    arguments = RewardConfig(
        output_dir=str(config.run / "trl"),
        per_device_train_batch_size=workload_pairs,
        num_train_epochs=1,
        learning_rate=RATE,
        weight_decay=config.optimiser.weight_decay,
        max_grad_norm=config.optimiser.max_gradient_norm,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        bf16=config.optimiser.bf16,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    definition = Tokenizer.from_str(checkpoint.formatter.tokenizer.definition)
    padding = definition.id_to_token(0)
    names = {"tokenizer_object": definition, "pad_token": padding, "eos_token": padding}
    tokenizer = PreTrainedTokenizerFast(**names)  # type: ignore[no-untyped-call]
    trainer = TrlTrainer(
        model=PaddedRewardModel(checkpoint.model),
        args=arguments,
        train_dataset=Dataset.from_dict(
            {"chosen_ids": [chosen for chosen, _ in pairs], "rejected_ids": [rejected for _, rejected in pairs]}
        ),
        processing_class=tokenizer,
        callbacks=[timer],
    )
    trainer.train()


def padded(config: TrainingConfig, checkpoint: Checkpoint, examples: Sequence[Example], timer: Timer) -> None:
    """A loop of a few lines, with nothing around the step."""
    model = PaddedRewardModel(checkpoint.model).train(False)  # without dropout, as the others are
    decay = config.optimiser.weight_decay
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=decay, fused=True)  # as TRL's default
    elements = config.optimiser.batch_elements
    for place in range(0, len(examples), elements):
        began = time.perf_counter()
        ids, mask = rows_of(pairs_of(examples[place : place + elements]))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.optimiser.bf16):
            chosen, rejected = model(ids, mask).logits[:, 0].chunk(2)
        loss = -logsigmoid(chosen - rejected).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.max_gradient_norm)
        optimiser.step()
        optimiser.zero_grad()
        timer.seconds.append(time.perf_counter() - began)
        timer.losses.append(float(loss.detach()))


CONTENDERS = {"assay": assay, "trl": trl, "padded": padded}


def run(name: str, workload: Workload, steps: int, bf16: bool) -> dict[str, Any]:
    """Train so many steps; seconds and loss of each, pairs and tokens of a step, peak memory of the process in MiB."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        config, checkpoint = untrained(workload, Path(folder), bf16)
        examples = examples_of(workload, steps, checkpoint)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        timer = Timer()
        CONTENDERS[name](config, checkpoint, examples, timer)
    tokens = [sum(len(item.ids) for item in example.items) for example in examples]
    return {
        "seconds": timer.seconds,
        "losses": timer.losses,
        "precision": "bf16" if bf16 else "fp32",
        "pairs": workload.pairs_of_a_step,
        "mean_tokens_of_an_item": sum(tokens) / sum(len(example.items) for example in examples),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mib": before / 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--fp32", action="store_true")
    flags = parser.parse_args()
    print(json.dumps(run(flags.name, WORKLOADS[flags.workload], flags.steps, not flags.fp32 and computes_bf16())))
