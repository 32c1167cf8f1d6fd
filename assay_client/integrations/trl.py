"""Reward functions for TRL's trainers (GRPO, RLOO, online DPO), and for loops of one's own with the same signature.

trainer = GRPOTrainer(model, reward_funcs=[TrlReward(RewardClient("http://reward:8000"))], ...)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from assay_client.async_client import AsyncRewardClient
from assay_client.integrations.conversations import Turns, pair
from assay_client.sync_client import RewardClient
from assay_client.types import Scale, Truncate


class TrlReward:
    """A reward function that blocks: `(prompts, completions, **columns) -> rewards` in order, or an `AssayError`.

    Args:
        client: by default one of ASSAY_URL.
        name: under which the trainer logs.
        scale, truncate, allow_empty: as of `RewardClient.score_pairs`. Policies do end at once, so that an empty
            completion is scored by default and does not end the run.
    """

    def __init__(
        self, client: RewardClient | None = None, *, name: str = "assay", scale: Scale = "raw",
        truncate: Truncate | None = None, allow_empty: bool = True,
    ) -> None:  # fmt: skip
        self.__name__ = name
        self._client = client or RewardClient()
        self._options: dict[str, Any] = {"scale": scale, "truncate": truncate, "allow_empty": allow_empty}

    def __call__(
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
    ) -> list[float]:
        """Rewards of the completions, in order."""
        pairs = [pair(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        return list(self._client.score_pairs(pairs, **self._options)) if pairs else []


def async_trl_reward(
    client: AsyncRewardClient | None = None, *, name: str = "assay", scale: Scale = "raw",
    truncate: Truncate | None = None, allow_empty: bool = True,
) -> Callable[..., Coroutine[Any, Any, list[float]]]:  # fmt: skip
    """The same as a coroutine function, which TRL runs beside its other asynchronous ones; see `TrlReward`.

    A function and no object: some versions of TRL look at nothing else to tell that it must be awaited.
    """
    scorer = client or AsyncRewardClient()

    async def reward(prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any) -> list[float]:
        pairs = [pair(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        if not pairs:
            return []
        return list(await scorer.score_pairs(pairs, scale=scale, truncate=truncate, allow_empty=allow_empty))

    reward.__name__ = name
    return reward
