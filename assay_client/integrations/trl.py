"""Reward functions for TRL's trainers (GRPO, RLOO, online DPO), and for loops of one's own with the same signature.

trainer = GRPOTrainer(model, reward_funcs=[TrlReward(RewardClient("http://reward:8000"))], ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from assay_client.async_client import AsyncRewardClient
from assay_client.integrations.conversations import Turns, pair
from assay_client.sync_client import RewardClient
from assay_client.types import Scale, Truncate


class _Reward:
    """What both functions are called in logs, and how they score."""

    def __init__(self, name: str, scale: Scale, truncate: Truncate | None, allow_empty: bool) -> None:
        self.__name__ = name  # TRL logs a function's rewards under it
        self._options: dict[str, Any] = {"scale": scale, "truncate": truncate, "allow_empty": allow_empty}


class TrlReward(_Reward):
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
        super().__init__(name, scale, truncate, allow_empty)
        self._client = client or RewardClient()

    def __call__(
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
    ) -> list[float]:
        """Rewards of the completions, in order."""
        pairs = [pair(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        return list(self._client.score_pairs(pairs, **self._options)) if pairs else []


class AsyncTrlReward(_Reward):
    """The same as a coroutine, which TRL runs beside its other asynchronous functions; see `TrlReward`."""

    def __init__(
        self, client: AsyncRewardClient | None = None, *, name: str = "assay", scale: Scale = "raw",
        truncate: Truncate | None = None, allow_empty: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(name, scale, truncate, allow_empty)
        self._client = client or AsyncRewardClient()

    async def __call__(
        self, prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
    ) -> list[float]:
        """Rewards of the completions, in order."""
        pairs = [pair(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        return list(await self._client.score_pairs(pairs, **self._options)) if pairs else []
