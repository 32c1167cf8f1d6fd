"""What both methods do before and after: prompts, servers, the run's folder, the held-out comparison."""

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerFast

from training.feedback.config import FeedbackConfig
from training.feedback.curves import draw, read_curves
from training.feedback.held_out import Sample, compare, side_by_side
from training.feedback.policy import short_enough
from training.feedback.prompts import Prompt, PromptError, read_prompts, split_prompts
from training.feedback.rewards import Served, reach
from training.run_folder import holds_run, remove, write

CONFIGURATION, CURVES, FIGURE, HELD_OUT, SAMPLES, SUMMARY = (
    "feedback.json", "curves.jsonl", "curves.png", "held_out.json", "samples.jsonl", "summary.txt",
)  # fmt: skip
ADAPTER, TENSORBOARD = "adapter", "tensorboard"
_PARTIAL, _FORMER = "adapter.partial", "adapter.former"


@dataclass(frozen=True)
class Task:
    """What a run learns from, and who judges it. Served models are those found when the run began."""

    train: list[Prompt]
    held_out: list[Prompt]
    left_out: int
    served: Served
    judge: Served | None


def set_up(config: FeedbackConfig, tokenizer: PreTrainedTokenizerFast) -> Task:
    """Read the prompts, wait for the servers, and begin the run's folder.

    Raises:
        PromptError: a file of prompts that cannot be used, or too few of them.
        ValueError: the folder holds something that is not to be replaced.
        OSError: a file is not there.
        AssayError: a server is not there, or not what it should be.
    """
    refuse_to_delete(config)
    settings = config.prompts
    train = read_prompts(settings.train)
    if settings.held_out is None:
        train, held_out = split_prompts(train, settings.held_out_count, config.seed)
    else:
        held_out = read_prompts(settings.held_out)
        apart = set(held_out)
        train = [prompt for prompt in train if prompt not in apart]
        if not train:
            raise PromptError(f"{settings.held_out} holds all of {settings.train}: nothing is left to learn from")
    fitting = short_enough(tokenizer, train, settings.max_tokens)
    asked = short_enough(tokenizer, held_out, settings.max_tokens)[: settings.held_out_count]
    if not fitting or not asked:
        raise PromptError(f"no prompt is short enough: prompts.max_tokens is {settings.max_tokens}")
    reward = config.reward
    served = reach(reward.url, reward.scale, reward.truncate, reward.timeout)
    judge = None if reward.judge_url is None else reach(reward.judge_url, reward.scale, reward.truncate, reward.timeout)
    task = Task(fitting, asked, len(train) - len(fitting), served, judge)
    begin(config, task)
    return task


def refuse_to_delete(config: FeedbackConfig) -> None:
    """Refuse a folder whose content is not ours to replace.

    Raises:
        ValueError: naming the folder and the way out.
    """
    if holds_run(config.run, CONFIGURATION) and not config.overwrite:
        raise ValueError(f"--run {config.run}: holds a run already; name another, or give --overwrite")


def begin(config: FeedbackConfig, task: Task) -> None:
    """Empty the folder of what an earlier run left, and note what this one is."""
    run = config.run
    run.mkdir(parents=True, exist_ok=True)
    remove(run, (CURVES, FIGURE, HELD_OUT, SAMPLES, SUMMARY, ADAPTER, _PARTIAL, _FORMER, TENSORBOARD))
    write(
        run / CONFIGURATION,
        {
            "configuration": config.model_dump(mode="json"),
            "prompts": len(task.train),
            "prompts_left_out": task.left_out,
            "held_out_prompts": len(task.held_out),
            "reward_model": _identity(task.served),
            "judge_model": None if task.judge is None else _identity(task.judge),
        },
    )


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerFast, run: Path) -> None:
    """Write the adapter, as peft reads it, in place of the one before, which stays until this one is whole."""
    partial = run / _PARTIAL
    with warnings.catch_warnings():
        # peft asks for the base model's configuration, to see whether its vocabulary grew; ours never does.
        warnings.simplefilter("ignore", UserWarning)
        model.save_pretrained(str(partial))
    tokenizer.save_pretrained(partial)
    if (run / ADAPTER).is_dir():
        (run / ADAPTER).rename(run / _FORMER)
    partial.rename(run / ADAPTER)
    shutil.rmtree(run / _FORMER, ignore_errors=True)


def finish(run: Path, before: Sequence[Sample], after: Sequence[Sample], seed: int) -> None:
    """Write held_out.json, samples.jsonl, curves.png and summary.txt."""
    comparison = compare(before, after, seed)
    write(run / HELD_OUT, comparison)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in side_by_side(before, after)]
    (run / SAMPLES).write_text("".join(lines), encoding="utf-8")
    draw({run.name: read_curves(run)}, run / FIGURE)
    (run / SUMMARY).write_text(summary(run, comparison) + "\n", encoding="utf-8")


def summary(run: Path, comparison: dict[str, Any]) -> str:
    """What a run came to, for the terminal."""
    lines = [f"on {comparison['prompts']} held-out prompts   before    after   difference (95 % interval over prompts)"]
    for name, title in (
        ("score", "score"), ("judge", "judge"), ("tokens", "tokens a response"), ("ended", "ended by itself"),
        ("kl", "KL (nats)"),
    ):  # fmt: skip
        if name in comparison:
            figures = comparison[name]
            low, high = figures["interval"]
            lines.append(
                f"  {title:<26}{figures['before']:>8.3f} {figures['after']:>8.3f}   "
                f"{figures['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
            )
    return "\n".join([*lines, f"curves: {run / FIGURE}   samples: {run / SAMPLES}   adapter: {run / ADAPTER}"])


def _identity(served: Served) -> dict[str, str]:
    return {"url": served.url, "name": served.model.name, "digest": served.model.digest}
