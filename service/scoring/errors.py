"""Why a request gets no scores. Every class here has its status and code in `service.api.errors`."""

from typing import Literal


class ScoringError(Exception):
    """Base of all of them.

    Attributes:
        item: index of the item at fault, if it is one item's.
        part: which of its two texts is at fault.
    """

    def __init__(self, message: str, item: int | None = None, part: Literal["prompt", "response"] = "response") -> None:
        super().__init__(message)
        self.item = item
        self.part = part


class TooManyTokensError(ScoringError):
    """An item is longer than the model takes."""


class EmptyTextError(ScoringError):
    """A prompt or a response is empty and the caller did not say that this is meant."""


class UnrenderablePromptError(ScoringError):
    """The model's chat template refuses the messages."""


class ModelMismatchError(ScoringError):
    """The caller pinned another model than the one that is served."""


class QueueFullError(ScoringError):
    """The queue has no room for the whole request, which is therefore refused whole.

    Attributes:
        retry_after: seconds until there should be room, from the measured rate.
        by: "queue_full" (items), "token_budget" (tokens) or "queue_time" (it would be late).
    """

    def __init__(self, message: str, retry_after: float, by: str) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.by = by


class NeverFitsError(ScoringError):
    """The request is larger than the whole queue: waiting will not help."""


class DeadlineExceededError(ScoringError):
    """The caller's time is up."""


class NonFiniteScoreError(ScoringError):
    """The model gave NaN or infinity: there is no reward, and none is made up."""


class EngineFailedError(ScoringError):
    """The batch that held the item failed."""
