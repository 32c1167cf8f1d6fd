"""Rewards on prompts that the policy never learnt from: before, after, and how sure the difference is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from training.evaluation.metrics import clustered_interval
from training.feedback.policy import Policy
from training.feedback.prompts import Prompt, messages
from training.feedback.rewards import Scorer
from training.feedback.seeds import derived_seed

BATCH = 32


@dataclass(frozen=True)
class Sample:
    """A response to a held-out prompt.

    Attributes:
        prompt: as messages.
        score: by the reward model, without penalties.
        judge: by the second reward model, if there is one.
        tokens: of the response, the end-of-sequence token included.
        ended: whether it ended by itself.
        kl: log-probability by the policy minus that by the policy as it came, summed over the tokens (nats).
    """

    prompt: list[dict[str, str]]
    response: str
    score: float
    judge: float | None
    tokens: int
    ended: bool
    kl: float


def measure(
    policy: Policy,
    prompts: Sequence[Prompt],
    reward: Scorer,
    judge: Scorer | None,
    seed: int,
) -> list[Sample]:
    """One sampled response to each prompt, scored. Workers that share the prompts need seeds of their own.

    Raises:
        AssayError: see `Scorer.scores`.
    """
    samples = []
    for start in range(0, len(prompts), BATCH):
        asked = prompts[start : start + BATCH]
        rollout = policy.sample(asked, derived_seed(seed, start))
        with torch.no_grad():
            kl = (policy(rollout).log_probs - policy.reference(rollout)).sum(dim=1)
        scores = reward.scores(asked, rollout.texts).tolist()
        second = [None] * len(asked) if judge is None else judge.scores(asked, rollout.texts).tolist()
        samples += [
            Sample(messages(asked[row]), rollout.texts[row], scores[row], second[row], int(rollout.mask[row].sum()),
                   bool(rollout.ended[row]), float(kl[row]))
            for row in range(len(asked))
        ]  # fmt: skip
    return samples


def compare(before: Sequence[Sample], after: Sequence[Sample], seed: int) -> dict[str, Any]:
    """Means before and after, and the mean difference of each quantity with its 95 % interval.

    The interval is bootstrapped over prompts, each being compared with itself. It knows the spread over prompts and
    sampling, not that over training seeds.
    """
    found: dict[str, Any] = {"prompts": len(before)}
    for name in ("score", "judge", "tokens", "ended", "kl"):
        old, new = ([getattr(sample, name) for sample in samples] for samples in (before, after))
        if None in old:
            continue
        difference = np.array(new, dtype=np.float64) - np.array(old, dtype=np.float64)
        interval = clustered_interval(difference, np.arange(len(difference)), seed=seed)
        found[name] = {
            "before": fmean(old),
            "after": fmean(new),
            "difference": float(difference.mean()),
            "interval": [interval.low, interval.high],
        }
    return found


def side_by_side(before: Sequence[Sample], after: Sequence[Sample]) -> list[dict[str, Any]]:
    """Rows of prompt, and of response and figures before and after."""
    rows = []
    for old, new in zip(before, after, strict=True):
        first, second = asdict(old), asdict(new)
        prompt = first.pop("prompt")
        second.pop("prompt")
        rows.append({"prompt": prompt, "before": first, "after": second})
    return rows
