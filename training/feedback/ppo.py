"""Proximal policy optimisation against a served reward model, in one or more processes of one machine.

A loop of our own: TRL's PPO wants the reward model in its process, and its GRPO, which takes a function, has no critic.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.feedback.config import PpoConfig
from training.feedback.curves import CurveWriter, Row
from training.feedback.held_out import Sample, measure
from training.feedback.objective import policy_loss, value_loss
from training.feedback.policy import Policy, Reading, Rollout, load_policy, load_tokenizer
from training.feedback.prompts import Prompt, PromptOrder
from training.feedback.returns import generalised_advantages, masked_mean, token_rewards
from training.feedback.rewards import Scorer
from training.feedback.run_folder import SUMMARY, Task, finish, save_adapter, set_up
from training.feedback.seeds import derived_seed
from training.feedback.workers import average_gradients, gathered, own_part, run_workers, summed


@dataclass(frozen=True)
class Experience:
    """A worker's part of a round: responses, and what they are worth. Arrays are (B, T) unless said otherwise.

    Attributes:
        log_probs, values: by the policy that sampled.
        advantages: whitened over the tokens of all workers.
        returns: what the values should have been.
        means: of this worker's responses, by name of `Row`'s field.
    """

    rollout: Rollout
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    means: dict[str, float]


def run_ppo(config: PpoConfig) -> str:
    """Learn, measure before and after, and write the run's folder. Returns a summary for people.

    Raises:
        PromptError, ValueError, OSError, AssayError: see `set_up` and `load_policy`.
        WorkerError: a worker failed; the adapter of the last whole update is in the folder.
    """
    task = set_up(config, load_tokenizer(config.policy.backbone))
    run_workers(config.workers, learn, (config, task))
    return (config.run / SUMMARY).read_text(encoding="utf-8")


def learn(rank: int, argument: tuple[PpoConfig, Task]) -> None:
    """The work of one worker; that of rank 0 also writes the files.

    Raises:
        AssayError: a response could not be scored, or the server runs another model now.
        FloatingPointError: the loss is not finite.
    """
    config, task = argument
    policy = load_policy(config.policy, config.seed)
    optimiser = torch.optim.AdamW(policy.learnt(), lr=config.learning_rate, weight_decay=0.0)
    warmup = max(1, config.updates // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda update: min(1.0, (update + 1) / warmup))
    prompts = PromptOrder(task.train, config.seed)
    with ExitStack() as stack:
        # Left last: a request that it waits for ends when the client before it is closed.
        scoring = stack.enter_context(ThreadPoolExecutor(1))
        reward = stack.enter_context(Scorer(task.served))
        judge = None if task.judge is None else stack.enter_context(Scorer(task.judge))
        before = _held_out(policy, task, reward, judge, derived_seed(config.seed, 0, rank))
        began = time.monotonic()
        curves = stack.enter_context(
            CurveWriter(config.run, config.updates, progress=config.progress, writes=rank == 0)
        )
        for update in range(1, config.updates + 1):
            asked = own_part(prompts.take(config.responses))
            seed = derived_seed(config.seed, update, rank)
            experience = collect(policy, asked, reward, judge, scoring, config, seed)
            clip_fraction = improve(policy, optimiser, experience, config, seed)
            schedule.step()
            if rank == 0:
                save_adapter(policy.model, policy.tokenizer, config.run)
            means = averaged({**experience.means, "clip_fraction": clip_fraction})
            curves.write(Row(update=update, seconds=time.monotonic() - began, **means))
        after = _held_out(policy, task, reward, judge, derived_seed(config.seed, 0, rank))
    if rank == 0:
        finish(config.run, before, after, config.seed)


def collect(
    policy: Policy,
    prompts: Sequence[Prompt],
    reward: Scorer,
    judge: Scorer | None,
    scoring: ThreadPoolExecutor,
    config: PpoConfig,
    seed: int,
) -> Experience:
    """Sample a response to each prompt, have it scored, and work out the advantages of its tokens.

    Raises:
        AssayError: see `learn`.
    """
    rollout = policy.sample(prompts, seed)
    # The server works while the probabilities are computed here.
    waiting = scoring.submit(reward.scores, prompts, rollout.texts)
    reading, reference = _read(policy, rollout, config.ppo.minibatch)
    scores = waiting.result()
    rewards = scores - config.reward.missing_end_penalty * (~rollout.ended)
    mask = rollout.mask
    advantages, returns = generalised_advantages(
        token_rewards(rewards, reading.log_probs, reference, mask, config.kl_coefficient),
        reading.values,
        mask,
        config.ppo.discount,
        config.ppo.gae_lambda,
    )
    means = {
        "reward": float(rewards.mean()),
        "score": float(scores.mean()),
        "kl": float((reading.log_probs - reference).sum(dim=1).mean()),
        "length": float(mask.sum(dim=1).float().mean()),
        "ended": float(rollout.ended.float().mean()),
        "entropy": float(masked_mean(reading.entropy, mask)),
    }
    if judge is not None:
        means["judge"] = float(judge.scores(prompts, rollout.texts).mean())
    return Experience(rollout, reading.log_probs, reading.values, _whitened(advantages, mask), returns, means)


def improve(
    policy: Policy, optimiser: torch.optim.Optimizer, experience: Experience, config: PpoConfig, seed: int
) -> float:
    """Take the optimiser's steps of one round, the same on all workers.

    Returns:
        The share of tokens whose gradient was stopped.

    Raises:
        FloatingPointError: a loss or gradient is not finite; nothing was learnt from it.
    """
    settings, mask = config.ppo, experience.rollout.mask
    generator = torch.Generator().manual_seed(seed)
    fractions = []
    for _ in range(settings.epochs):
        for rows in _batches(torch.randperm(len(mask), generator=generator), settings.minibatch):
            reading: Reading = policy(experience.rollout[rows])
            surrogate = policy_loss(
                reading.log_probs, experience.log_probs[rows], experience.advantages[rows], mask[rows], settings.clip
            )
            critic = value_loss(
                reading.values, experience.values[rows], experience.returns[rows], mask[rows], settings.value_clip
            )
            loss = surrogate.loss + settings.value_coefficient * critic
            if not torch.isfinite(summed(loss.detach())):
                raise FloatingPointError("the loss is not finite; lower learning_rate, or raise kl_coefficient")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            average_gradients(policy.learnt())
            norm = nn.utils.clip_grad_norm_(policy.learnt(), config.max_gradient_norm)
            if not torch.isfinite(norm):  # the same on all workers
                raise FloatingPointError("the gradient is not finite; lower learning_rate")
            optimiser.step()
            fractions.append(float(surrogate.clip_fraction))
    return sum(fractions) / len(fractions)


def averaged(means: dict[str, float]) -> dict[str, Any]:
    """Means over all workers, which have equal shares; the judge's is None where there is none."""
    names = sorted(means)
    total = summed(torch.tensor([*(means[name] for name in names), 1.0], dtype=torch.float64)).tolist()
    return {"judge": None} | {name: value / total[-1] for name, value in zip(names, total[:-1], strict=True)}


@torch.no_grad()
def _read(policy: Policy, rollout: Rollout, minibatch: int) -> tuple[Reading, torch.Tensor]:
    """The sampling policy's reading, and the reference's log-probabilities, a minibatch at a time."""
    parts, references = [], []
    for rows in _batches(torch.arange(len(rollout.mask)), minibatch):
        part = rollout[rows]
        parts.append(policy(part))
        references.append(policy.reference(part))
    reading = Reading(
        torch.cat([part.log_probs for part in parts]),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.values for part in parts]),
    )
    return reading, torch.cat(references)


def _batches(rows: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over the tokens of all workers."""
    kept = values[mask].double()
    count, total, squares = summed(torch.stack([mask.sum().double(), kept.sum(), (kept**2).sum()])).tolist()
    mean = total / count
    variance = max(squares / count - mean**2, 0.0)
    whitened: torch.Tensor = (values - mean) / (variance**0.5 + 1e-8)
    return whitened * mask


def _held_out(policy: Policy, task: Task, reward: Scorer, judge: Scorer | None, seed: int) -> list[Sample]:
    """Each worker measures its part."""
    part = own_part(task.held_out)
    return gathered(measure(policy, part, reward, judge, seed) if part else [])
