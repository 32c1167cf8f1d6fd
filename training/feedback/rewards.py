"""Scores of responses from a server that must stay the same model throughout a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from assay_client import AssayError, RewardClient
from assay_client.types import ModelIdentity, Prompt as WirePrompt, Scale, Truncate
from training.feedback.prompts import Prompt, messages

_FIRST_CONTACT_S = 120.0


@dataclass(frozen=True)
class Served:
    """A server, and the model it had when the run began.

    Every call is pinned to that model's digest. A server that is away is waited for; one that comes back with another
    model raises `ModelMismatchError`. No reward is ever made up.
    """

    url: str
    model: ModelIdentity
    scale: Scale
    truncate: Truncate | None
    timeout: float

    def client(self) -> RewardClient:
        """A client pinned to the model."""
        return RewardClient(self.url, timeout=self.timeout, model_digest=self.model.digest)

    def scores(self, client: RewardClient, prompts: Sequence[Prompt], texts: Sequence[str]) -> torch.Tensor:
        """(B,) float32, in order; an empty response is scored as any other.

        Raises:
            AssayError: the texts cannot be scored, or the server is another, or away for longer than the timeout.
        """
        pairs: list[tuple[WirePrompt, str]] = [
            (prompt if isinstance(prompt, str) else messages(prompt), text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        found = client.score_pairs(pairs, scale=self.scale, truncate=self.truncate, allow_empty=True)
        return torch.tensor(found.scores, dtype=torch.float32)


def reach(url: str, scale: Scale, truncate: Truncate | None, timeout: float) -> Served:
    """Wait until the server is ready, and note its model.

    Raises:
        AssayError: it is not there, or not what it should be.
    """
    with RewardClient(url, timeout=_FIRST_CONTACT_S) as client:
        try:
            client.wait_until_ready(min(timeout, _FIRST_CONTACT_S))
            return Served(url, client.model().model, scale, truncate, timeout)
        except AssayError as error:
            error.message = f"reward server {url}: {error.message}"
            raise
