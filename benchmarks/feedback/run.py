"""Policies that learn from a served reward model: PPO over seeds, without its KL penalty, GRPO, the default bundle.

    python -m benchmarks.feedback.run [--quick] [--only ppo|overoptimisation|grpo|default]

SmolLM2-135M-Instruct continues diary entries. Their reward model is a MiniLM, trained here on human judgements of which
continuation is the more pleasant; a second one, trained on other entries, judges without being optimised. A last run
has the default bundle for its reward, and the prompts that come with the project. Each part writes its own result, and
its curves as PNG beside it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.feedback.models import TASK, WORK, served, train_models
from benchmarks.result import RESULTS, Result, Row, Target, publish_parts
from training.feedback.curves import Row as CurveRow
from training.feedback.curves import draw, read_curves

LIMIT_MINUTES = 40
SHOWN = 8


@dataclass(frozen=True)
class Run:
    """One call of `assay-train`: the method, its seed and what is set otherwise than by default."""

    method: str
    seed: int
    settings: dict[str, str]


@dataclass(frozen=True)
class Part:
    """Runs with one pair of models: which one rewards, which one judges, and what all of the runs set."""

    reward: str
    judge: str
    settings: dict[str, str]
    runs: list[Run]


COMMON = {"updates": "30", "prompts.held-out-count": "128"}
DIARY = {
    **COMMON,
    "prompts.train": str(TASK / "train_prompts.jsonl"),
    "prompts.held-out": str(TASK / "held_out_prompts.jsonl"),
    "policy.max-new-tokens": "24",
}
"""The diary, and its short answers."""
QUICK = {"updates": "2", "prompts.held-out-count": "16"}
# Long enough to see what is gained after the judge has stopped agreeing.
FAR = {"kl-coefficient": "0", "learning-rate": "4e-4", "updates": "45"}

PARTS: dict[str, Part] = {
    "ppo": Part("reward", "judge", DIARY, [Run("ppo", seed, {}) for seed in range(3)]),
    "overoptimisation": Part("reward", "judge", DIARY, [Run("ppo", 0, FAR)]),
    "grpo": Part("reward", "judge", DIARY, [Run("grpo", 0, {})]),
    # The prompts are those that the default model was trained on, as they come.
    "default": Part(
        "default", "default_judge", {**COMMON, "updates": "20", "policy.max-new-tokens": "32"}, [Run("ppo", 0, {})]
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What a run left in its folder, and how long all of it took, loading and measuring included."""

    seconds: float
    curves: list[CurveRow]
    held_out: dict[str, Any]
    samples: list[dict[str, Any]]
    begun: dict[str, Any]


def learn(part: str, run: Run, urls: dict[str, str], quick: bool) -> Outcome:
    """Run `assay-train` in a process of its own, as a user would.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    folder = WORK / "runs" / f"{part}-{run.seed}"
    models = PARTS[part]
    settings = {
        **models.settings, **run.settings, **(QUICK if quick else {}), "run": str(folder), "seed": str(run.seed),
        "reward.url": urls[models.reward], "reward.judge-url": urls[models.judge],
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in settings.items()]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "training", run.method, *flags, "--policy.bf16", "--overwrite"], check=True)
    return Outcome(
        time.monotonic() - began,
        read_curves(folder),
        _read(folder / "held_out.json"),
        [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()[:SHOWN]],
        _read(folder / "feedback.json"),
    )


def rises(run: Run, outcome: Outcome) -> Target:
    """The held-out score rises by more than its interval."""
    score = outcome.held_out["score"]
    low, high = score["interval"]
    return Target(
        f"{run.method}, seed {run.seed}: the score on {outcome.held_out['prompts']} held-out prompts rises",
        "by more than its 95 % interval",
        f"{score['before']:+.2f} to {score['after']:+.2f}, difference {score['difference']:+.2f} "
        f"({low:+.2f} to {high:+.2f})",
        low > 0,
    )


def beside(part: str, run: Run, outcome: Outcome) -> list[Row]:
    """What else moved on the held-out prompts, and where the judge was highest."""
    found = []
    for name, title in (
        ("judge", "judge"), ("kl", "KL, nats"), ("tokens", "tokens"), ("ended", "ended by itself")
    ):  # fmt: skip
        figures = outcome.held_out[name]
        low, high = figures["interval"]
        found.append(
            f"{title} {figures['before']:.2f} to {figures['after']:.2f} "
            f"({figures['difference']:+.2f}, {low:+.2f} to {high:+.2f})"
        )
    rows = [Row(f"{part}, seed {run.seed}, held-out prompts", "; ".join(found))]
    if part == "overoptimisation":
        rows.append(Row("overoptimisation: when the judge stopped agreeing", divided(outcome.curves)))
    return rows


def divided(curves: Sequence[CurveRow], window: int = 5) -> str:
    """Where the judge's score, smoothed over `window` updates, was highest, against the end."""
    means = [
        {
            name: statistics.mean(getattr(row, name) for row in curves[place : place + window])
            for name in ("score", "judge", "kl", "entropy")
        }
        for place in range(max(1, len(curves) - window + 1))
    ]
    peak = max(range(len(means)), key=lambda place: means[place]["judge"])

    def told(place: int) -> str:
        at = means[place]
        return (
            f"score {at['score']:+.2f}, judge {at['judge']:+.2f}, KL {at['kl']:.1f} nats, entropy {at['entropy']:.2f}"
        )

    return f"judge highest in updates {peak + 1} to {peak + window}: {told(peak)}; last {window} updates: {told(-1)}"


def measure(part: str, quick: bool) -> Result:
    """All runs of a part, one after the other, against two servers."""
    chosen = PARTS[part]
    with served(train_models((chosen.reward, chosen.judge))) as urls:
        outcomes = [learn(part, run, urls, quick) for run in chosen.runs]
    RESULTS.mkdir(exist_ok=True)
    both = list(zip(chosen.runs, outcomes, strict=True))
    labels = {f"seed {run.seed}": outcome.curves for run, outcome in both}
    draw(labels, RESULTS / f"feedback_{part}{'.quick' if quick else ''}.png")
    minutes = max(outcome.seconds for outcome in outcomes) / 60
    targets = [rises(run, outcome) for run, outcome in both]
    targets.append(
        Target(f"{part}: the longest run", f"at most {LIMIT_MINUTES} minutes", f"{minutes:.0f} minutes",
               minutes <= LIMIT_MINUTES, detail=True)
    )  # fmt: skip
    figures = {
        f"seed {run.seed}": {
            "begun": outcome.begun,
            "held_out": outcome.held_out,
            "curves": [asdict(row) for row in outcome.curves],
            "samples": outcome.samples,
        }
        for run, outcome in both
    }
    rows = [row for run, outcome in both for row in beside(part, run, outcome)]
    return Result(f"feedback_{part}", quick, chosen.runs[0].seed, targets, figures, rows)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    publish_parts(__doc__, PARTS, measure, quick="two updates a run: that it runs, not that it learns")
