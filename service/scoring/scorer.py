"""The scorer: prompts and responses in, raw scores out. What every route and every dialect calls."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from service.bundle.reader import Bundle
from service.bundle.text_format import (
    PART_CHARS,
    EncodedItem,
    FormatError,
    Formatter,
    Message,
    TooLongError,
    Truncation,
)
from service.observability.metrics import Metrics
from service.observability.tracing import describe, record, span
from service.scoring.cache import HeadScores
from service.scoring.errors import (
    DeadlineExceededError,
    EmptyTextError,
    EngineFailedError,
    ModelMismatchError,
    NonFiniteScoreError,
    ScoringError,
    TooManyTokensError,
    UnrenderablePromptError,
)
from service.scoring.flights import Scored
from service.scoring.items import AnyItem, Item, Whole
from service.scoring.prefixes import Sequences
from service.scoring.scheduler import Scheduler


@dataclass(frozen=True)
class Wishes:
    """How a caller wants its items scored.

    Attributes:
        truncate: the side that may be cut; None makes an over-long item an error.
        allow_empty: score empty texts instead of refusing them.
        deadline: monotonic seconds.
        model_digest: the only model that will do.
        per_item_failures: give a failure in place of an item's score instead of failing the request.
    """

    truncate: Truncation | None = None
    allow_empty: bool = False
    deadline: float | None = None
    model_digest: str | None = None
    per_item_failures: bool = False


@dataclass(frozen=True)
class ItemResult:
    """One item's raw score, or why it has none; `heads` are the raw scores of all heads, the reward first."""

    score: float | ScoringError
    tokens: int
    removed: int
    heads: HeadScores


@dataclass(frozen=True)
class Scores:
    """Results in the caller's order, and what they took. Times in seconds."""

    items: list[ItemResult]
    computed_tokens: int
    tokenize_seconds: float
    queue_seconds: float
    infer_seconds: float

    @property
    def raw(self) -> list[float]:
        """Raw scores, when every item has one (it does unless failures by item were asked for)."""
        return [item.score for item in self.items if isinstance(item.score, float)]


class Scorer:
    """Scores items with one bundle.

    Args:
        bundle: what is served.
        scheduler: over a runner of this bundle.
        executor: threads for tokenizing.
        metrics: what to count in.
        clock: monotonic seconds, the scheduler's.
    """

    def __init__(
        self,
        bundle: Bundle,
        scheduler: Scheduler,
        executor: Executor,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bundle = bundle
        self.scheduler = scheduler
        self._executor = executor
        self._metrics = metrics
        self._clock = clock

    async def score(self, items: Sequence[AnyItem], wishes: Wishes) -> Scores:
        """Score all items, or raise; order and count are the caller's.

        Raises:
            ScoringError: any of `service.scoring.errors`; `item` says which item is at fault.
        """
        left = None if wishes.deadline is None else max(0.0, wishes.deadline - self._clock())
        try:
            try:
                async with asyncio.timeout(left):
                    scores = await self._score(items, wishes)
            except TimeoutError:
                raise DeadlineExceededError("the time for this request was up before its scores were there") from None
        except asyncio.CancelledError:
            self._count("cancelled", len(items))
            raise
        except ScoringError as error:
            if (outcome := _OUTCOME_OF.get(type(error))) is not None:
                self._count(outcome, len(items))
            raise
        for outcome, count in Counter(map(_outcome, scores.items)).items():
            self._count(outcome, count)
        return scores

    async def _score(self, items: Sequence[AnyItem], wishes: Wishes) -> Scores:
        if wishes.model_digest is not None and wishes.model_digest != self.bundle.digest:
            raise ModelMismatchError(f"this server holds {self.bundle.digest}, not {wishes.model_digest}")
        if not wishes.allow_empty:
            _refuse_empty(items)
        reservation = self.scheduler.admission.reserve(len(items))
        try:
            began = self._clock()
            with span("tokenize"):
                encoded, sequences = await self._prepare(items, wishes)
            tokenized = self._clock()
            with span("score"):
                scored = await self.scheduler.run(sequences, reservation, wishes.deadline)
                ran = self._clock() - tokenized - scored.queue_seconds
                record("queue", scored.queue_seconds, ended_s_ago=ran)
                record("infer", ran)
        finally:
            reservation.release()
        self._observe(encoded, tokenized - began, scored)
        failures = self._failures(scored.rows)
        if failures and not wishes.per_item_failures:
            raise next(iter(failures.values()))
        return Scores(
            items=[
                ItemResult(failures.get(place, row[0]), len(item.ids), item.removed, row)
                for place, (item, row) in enumerate(zip(encoded, scored.rows, strict=True))
            ],
            computed_tokens=scored.computed_tokens,
            tokenize_seconds=tokenized - began,
            queue_seconds=scored.queue_seconds,
            infer_seconds=scored.infer_seconds,
        )

    async def _prepare(self, items: Sequence[AnyItem], wishes: Wishes) -> tuple[list[EncodedItem], Sequences]:
        """Tokens of every item, and what the queue wants to know of them.

        In steps, each queued anew for a thread: a short request waits for one step of a long one, and what is left of a
        request that was cancelled or is late is never done.
        """
        encoded: list[EncodedItem | None] = [None] * len(items)
        steps = _encode(self.bundle.formatter, items, wishes, encoded)

        def step() -> Sequences | None:
            for _ in steps:
                return None
            return Sequences.of([item.ids for item in encoded if item is not None], self.scheduler.family)

        loop = asyncio.get_running_loop()
        while (sequences := await loop.run_in_executor(self._executor, step)) is None:
            pass
        return [item for item in encoded if item is not None], sequences

    def _failures(self, rows: Sequence[HeadScores]) -> dict[int, ScoringError]:
        """The errors of the items of which a score is none, by place."""
        failures: dict[int, ScoringError] = {}
        for place, row in enumerate(rows):
            for head, score in zip(self.bundle.manifest.heads, row, strict=True):
                if not math.isfinite(score):
                    what = "score" if head == self.bundle.manifest.heads[0] else f"score on the head {head!r}"
                    message = f"the model's {what} for this item is {score}: there is no reward to give"
                    failures.setdefault(place, NonFiniteScoreError(message, place))
        self._metrics.nonfinite.inc(len(failures))
        self._metrics.engine_errors.labels("nonfinite").inc(len(failures))
        return failures

    def _observe(self, encoded: Sequence[EncodedItem], tokenize_seconds: float, scored: Scored) -> None:
        metrics = self._metrics
        lengths = [len(item.ids) for item in encoded]
        metrics.request_samples.observe(len(encoded))
        metrics.input_tokens.observe(lengths)
        if metrics.score is not None:
            metrics.score.observe([row[0] for row in scored.rows if math.isfinite(row[0])])
        metrics.stage_duration.labels("tokenize").observe(tokenize_seconds)
        metrics.stage_duration.labels("queue").observe(scored.queue_seconds)
        metrics.stage_duration.labels("infer").observe(scored.infer_seconds)
        describe(
            items=len(encoded),
            tokens=sum(lengths),
            computed_tokens=scored.computed_tokens,
            model_digest=self.bundle.digest,
        )

    def _count(self, outcome: str, items: int) -> None:
        self._metrics.samples.labels(self.bundle.manifest.name, outcome).inc(items)


_OUTCOME_OF: dict[type[ScoringError], str] = {
    DeadlineExceededError: "expired",
    NonFiniteScoreError: "nonfinite",
    EngineFailedError: "error",
    TooManyTokensError: "invalid",
    EmptyTextError: "invalid",
    UnrenderablePromptError: "invalid",
}
"""Refusals by the queue or by a pinned digest say nothing of the items; the rejection counter has them."""


def _outcome(result: ItemResult) -> str:
    if isinstance(result.score, ScoringError):
        return "nonfinite"
    return "truncated" if result.removed else "ok"


def _refuse_empty(items: Sequence[AnyItem]) -> None:
    for place, item in enumerate(items):
        if isinstance(item, Item):
            part: Literal["prompt", "response"] = "prompt" if item.prompt_chars == 0 else "response"
            empty = item.prompt_chars == 0 or not item.response
        else:
            part, empty = "response", item.size == 0
        if empty:
            what = f"the {part}" if isinstance(item, Item) else "the text"
            raise EmptyTextError(
                f'{what} is empty; send "allow_empty": true if it is meant to be scored so', place, part
            )


def _encode(
    formatter: Formatter, items: Sequence[AnyItem], wishes: Wishes, encoded: list[EncodedItem | None]
) -> Iterator[None]:
    """Fill `encoded` with the tokens of every item; each distinct prompt is rendered and tokenized once.

    Yields whenever about `PART_CHARS` characters are done and more is left.

    Raises:
        TooManyTokensError, UnrenderablePromptError, EmptyTextError: naming the first item at fault.
    """
    by_prompt: dict[str | tuple[Message, ...], list[tuple[int, Item]]] = {}
    wholes: list[tuple[int, Whole]] = []
    for place, item in enumerate(items):
        if isinstance(item, Item):
            key = item.prompt if isinstance(item.prompt, str) else tuple(item.prompt)
            by_prompt.setdefault(key, []).append((place, item))
        else:
            wholes.append((place, item))
    sides = () if wishes.truncate is None else (wishes.truncate,)
    done = 0
    for prompt, members in by_prompt.items():
        if done >= PART_CHARS:
            yield
            done = 0
        left = iter(members)
        done += members[0][1].prompt_chars
        try:
            for part in formatter.encode_parts(prompt, [item.response for _, item in members], sides):
                if done >= PART_CHARS:
                    yield
                    done = 0
                for result in part:
                    place, item = next(left)
                    encoded[place] = _accepted(result, place, wishes)
                    done += len(item.response)
        except FormatError as error:
            raise UnrenderablePromptError(str(error), members[0][0], "prompt") from error
    for place, whole in wholes:
        if done >= PART_CHARS:
            yield
            done = 0
        try:
            encoded[place] = _accepted(whole.encode(formatter), place, wishes)
        except FormatError as error:
            raise UnrenderablePromptError(str(error), place) from error
        done += whole.size


def _accepted(result: EncodedItem | TooLongError, place: int, wishes: Wishes) -> EncodedItem:
    if isinstance(result, TooLongError):
        raise TooManyTokensError(str(result), place)
    if result.response_tokens == 0 and not wishes.allow_empty:
        # Blanks and control characters that the tokenizer drops: to the model the same as no text.
        advice = 'send "allow_empty": true if it is meant to be scored so'
        raise EmptyTextError(f"the response has no tokens for this model; {advice}", place)
    return result
