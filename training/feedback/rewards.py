"""Scores of responses from a server that must stay the same model throughout a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from assay_client import AssayError, RewardClient
from assay_client.types import ModelIdentity, Scale, Truncate
from assay_client.types import Prompt as WirePrompt
from training.feedback.prompts import Prompt, messages

_FIRST_CONTACT_S = 120.0


@dataclass(frozen=True)
class Served:
    """A server, and the model it had when the run began; can be sent to other processes."""

    url: str
    model: ModelIdentity
    scale: Scale
    truncate: Truncate | None
    timeout: float


class Scorer:
    """A process's connection to a server, pinned to the digest of the model that was there when the run began.

    A server that is away is waited for; one that comes back with another model raises `ModelMismatchError`. No reward
    is ever made up.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self.client = RewardClient(served.url, timeout=served.timeout, model_digest=served.model.digest)

    def scores(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> torch.Tensor:
        """(B,) float32, in order; an empty response is scored as any other.

        Raises:
            AssayError: the texts cannot be scored, or the server is another, or away for longer than the timeout.
        """
        pairs: list[tuple[WirePrompt, str]] = [
            (messages(prompt), text) for prompt, text in zip(prompts, texts, strict=True)
        ]
        found = self.client.score_pairs(
            pairs, scale=self._served.scale, truncate=self._served.truncate, allow_empty=True
        )
        return torch.tensor(found.scores, dtype=torch.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.client.close()


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
