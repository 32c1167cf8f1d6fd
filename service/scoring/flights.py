"""What is kept of a request between admission and reply, and of a batch between the line and its end.

    request:  Work, its items in the waiting line  ->  Pending, the caller's future and rows so far  ->  Scored
    item:     WaitingItem, one for all who want it  ->  Flight, a batch of them  ->  Outcome (batch_runner.py)

The scheduler owns the first line, the batch runner a flight while it runs. Parts of a flight that are run again are
flights too, of items of it, with its budget.
"""

import asyncio
import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from service.engine.runner import BatchResult
from service.scoring.batch import Batch
from service.scoring.cache import HeadScores
from service.scoring.waiting import WaitingItem, Work

_RERUN_SECONDS = 8
"""Times the seconds that the whole batch was predicted to take."""


@dataclass(frozen=True)
class Scored:
    """What became of one request.

    Attributes:
        rows: of each item, in the caller's order, the raw scores of all heads, the reward first; NaN and infinities
            are passed on as they are.
        queue_seconds: from admission to the start of the first batch that gave it scores.
        infer_seconds: sum of the run times of the batches that did.
        computed_tokens: tokens computed for it: a prefix shared within the request counts once, and an item that
            another request had already brought not at all.
    """

    rows: list[HeadScores]
    queue_seconds: float
    infer_seconds: float
    computed_tokens: int


@dataclass(eq=False)
class Pending:
    """A request between admission and result; scores by the key of the item."""

    work: Work
    future: "asyncio.Future[None]"
    rows: dict[bytes, HeadScores] = field(default_factory=dict)
    started: float | None = None
    infer_seconds: float = 0.0


@dataclass
class RerunBudget:
    """What may still be computed again of a batch some of whose scores were NaN or infinite, in parts of it.

    Attributes:
        runs: of parts, however long they take; as many as one item needs to be found among all.
        seconds: as predicted, beyond these.
        any_finite: whether some item got a finite score, so that not all are to blame.
    """

    runs: int
    seconds: float
    any_finite: bool = False

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """For a whole batch."""
        return cls(2 * math.ceil(math.log2(max(2, len(batch)))), _RERUN_SECONDS * batch.seconds)

    def spend(self, runs: int, seconds: float) -> bool:
        """Spend so much, if so many runs or so many seconds are left."""
        if runs > self.runs and seconds > self.seconds:
            return False
        self.runs -= runs
        self.seconds -= seconds
        return True


@dataclass(eq=False)
class Flight:
    """A batch between the line and its end.

    Attributes:
        budget: shared by a batch and its parts.
        submitted: what the runner will fulfil, None while the batch is being planned.
        given_up: everybody who waited for it has left before it ran.
    """

    batch: Batch
    items: list[WaitingItem]
    budget: RerunBudget
    submitted: "Future[BatchResult] | None" = None
    given_up: bool = False
