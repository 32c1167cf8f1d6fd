"""Group-relative policy optimisation by TRL's trainer, with rewards from a server by our function for it."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from assay_client.integrations.trl import TrlReward
from training.feedback.config import GrpoConfig
from training.feedback.curves import CurveWriter, Row
from training.feedback.held_out import measure
from training.feedback.policy import Policy, adapter, end_tokens, load_language_model, load_tokenizer
from training.feedback.prompts import messages
from training.feedback.rewards import Scorer
from training.feedback.run_folder import SUMMARY, finish, save_adapter, set_up
from training.precision import bf16_if_it_helps


def run_grpo(config: GrpoConfig) -> str:
    """Learn, measure before and after, and write the run's folder. Returns a summary for people.

    Raises:
        PromptError, ValueError, OSError: see `set_up` and `load_policy`.
        AssayError: a response could not be scored, or the server runs another model now.
    """
    tokenizer = load_tokenizer(config.policy.backbone)
    task = set_up(config, tokenizer)
    prompts_of_an_update = config.responses // config.grpo.responses_per_prompt
    if len(task.train) < prompts_of_an_update:  # of which TRL would make no batch at all, and end without a word
        raise ValueError(
            f"{len(task.train)} prompts to learn from, and an update takes {prompts_of_an_update} (responses over "
            "grpo.responses_per_prompt): name more prompts, hold out fewer, or lower responses"
        )
    model: Any = load_language_model(config.policy.backbone)
    with ExitStack() as stack:
        reward = stack.enter_context(Scorer(task.served))
        judge = None if task.judge is None else stack.enter_context(Scorer(task.judge))
        curves = stack.enter_context(CurveWriter(config.run, config.updates, progress=config.progress))
        functions: list[Any] = [
            TrlReward(reward.client, name="score", scale=task.served.scale, truncate=task.served.truncate),
            MissingEnd(end_tokens(model, tokenizer), config.reward.missing_end_penalty),
        ]
        weights = [1.0, 1.0]
        if judge is not None:  # recorded, without weight
            functions.append(
                TrlReward(judge.client, name="judge", scale=task.served.scale, truncate=task.served.truncate)
            )
            weights.append(0.0)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=functions,
            args=_arguments(config, weights),
            train_dataset=Dataset.from_list([{"prompt": messages(prompt)} for prompt in task.train]),
            processing_class=tokenizer,
            peft_config=adapter(config.policy),
            callbacks=[_Curves(curves, judge is not None)],
        )
        trainer.remove_callback(PrinterCallback)
        model = trainer.model
        policy = Policy(model, tokenizer, config.policy)
        before = measure(policy, task.held_out, reward, judge, config.seed)
        try:
            trainer.train()
        finally:
            save_adapter(model, tokenizer, config.run)
        if trainer.state.global_step < config.updates:
            raise RuntimeError(f"the trainer stopped after {trainer.state.global_step} of {config.updates} updates")
        policy.eval()
        after = measure(policy, task.held_out, reward, judge, config.seed)
    finish(config.run, before, after, config.seed)
    return (config.run / SUMMARY).read_text(encoding="utf-8")


class MissingEnd:
    """A reward function for TRL: minus the penalty for a completion that does not end by itself."""

    __name__ = "missing_end"

    def __init__(self, ends: Sequence[int], penalty: float) -> None:
        self._ends = frozenset(ends)
        self._penalty = penalty

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        """(B,) floats, 0 for those that end."""
        return [0.0 if ids and ids[-1] in self._ends else -self._penalty for ids in completion_ids]


def _arguments(config: GrpoConfig, weights: list[float]) -> GRPOConfig:
    group = config.grpo.responses_per_prompt
    return GRPOConfig(
        output_dir=str(config.run),
        max_steps=config.updates,
        per_device_train_batch_size=group,
        gradient_accumulation_steps=config.responses // group,
        num_generations=group,
        max_completion_length=config.policy.max_new_tokens,
        temperature=config.policy.temperature,
        beta=config.kl_coefficient,
        reward_weights=weights,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, config.updates // 10),
        max_grad_norm=config.max_gradient_norm,
        bf16=bf16_if_it_helps(config.policy.bf16, "policy.bf16"),
        use_cpu=True,
        seed=config.seed,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )


class _Curves(TrainerCallback):
    """Puts what the trainer logs into our rows."""

    def __init__(self, curves: CurveWriter, judged: bool) -> None:
        self._curves = curves
        self._judged = judged
        self._began = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The measurement before it does not count."""
        self._began = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """A row for each update; the summary at the end is none."""
        if logs is None or "rewards/score/mean" not in logs:
            return
        length = logs["completions/mean_length"]
        self._curves.write(
            Row(
                update=state.global_step,
                reward=logs["reward"],
                score=logs["rewards/score/mean"],
                judge=logs["rewards/judge/mean"] if self._judged else None,
                kl=logs["kl"] * length if "kl" in logs else None,  # logged as a mean over tokens, if it is penalised
                length=length,
                ended=1 - logs["completions/clipped_ratio"],
                entropy=logs["entropy"],
                clip_fraction=logs["clip_ratio/region_mean"],
                seconds=time.monotonic() - self._began,
            )
        )
