"""From waiting requests to batches on the runner, and back to the callers. Lives on the event loop alone."""

import asyncio
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.bundle.layout import Family, IntArray, Layout, added_tokens, depth_first_order, plan_layout
from service.engine.runner import BatchResult, Runner
from service.engine.session import EngineError
from service.observability.metrics import Metrics
from service.scoring.errors import (
    DeadlineExceededError,
    EngineFailedError,
    NeverFitsError,
    QueueFullError,
)
from service.scoring.waiting import BatchItem, WaitingLine, Work

_BATCHES_AHEAD = 2
"""One batch runs and one is ready behind it, so that the runner never waits for a plan."""
_LEAST_RETRY, _MOST_RETRY = 0.1, 60.0


@dataclass(frozen=True)
class Limits:
    """What may wait and what may run at once."""

    queue_items: int
    queue_tokens: int
    batch_tokens: int
    batch_cells: int = sys.maxsize
    """Attention cells: query slots times the longest item, which is what memory and attention's time follow."""


@dataclass(frozen=True)
class Scored:
    """What became of one request.

    Attributes:
        rewards: raw score of each item, in the caller's order; NaN and infinities are passed on as they are.
        queue_seconds: from admission to the start of the first batch.
        infer_seconds: sum of the run times of the batches that held its items.
        computed_tokens: tokens computed for it, prefixes shared within the request counted once.
    """

    rewards: list[float]
    queue_seconds: float
    infer_seconds: float
    computed_tokens: int


@dataclass(eq=False)
class _Pending:
    """A request between admission and result."""

    work: Work
    future: "asyncio.Future[None]"
    rewards: list[float]
    left: int
    started: float | None = None
    infer_seconds: float = 0.0


class Reservation:
    """Places in the queue, held for a request until it joins the line or is given up."""

    def __init__(self, scheduler: "Scheduler", items: int) -> None:
        self._scheduler = scheduler
        self._items = items
        scheduler.reserved_items += items

    def release(self) -> None:
        """Give the places back; a second time does nothing."""
        self._scheduler.reserved_items -= self._items
        self._items = 0


class Scheduler:
    """Admits requests whole, batches them without a timer, and hands each its scores.

    A batch is formed when the runner has room for one, from whatever waits at that moment; it is planned off the
    event loop while the batch before it runs.

    Args:
        runner: started.
        family, block_queries: of the bundle.
        limits: of queue and batches.
        executor: threads for finding what the items of a request share.
        metrics: what to count in.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        runner: Runner,
        family: Family,
        block_queries: int,
        limits: Limits,
        executor: Executor,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._runner = runner
        self._family = family
        self._block_queries = block_queries
        self._executor = executor
        self._metrics = metrics
        self._clock = clock
        self._line = WaitingLine(limits.batch_tokens, limits.batch_cells, block_queries)
        # A thread of its own: a plan must not wait behind texts that are being tokenized while the runner idles.
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="assay-plan")
        self._pending: dict[Work, _Pending] = {}
        self.reserved_items = 0
        self._batches = 0
        self._in_flight_items = 0
        self._tokens_per_second: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.watch_queue(self._gauges, limits.queue_items)

    def reserve(self, items: int) -> Reservation:
        """Admission by items, before any work is done for the request.

        Raises:
            NeverFitsError: more items than the queue holds when empty.
            QueueFullError: no room now for all of them.
        """
        limit = self.limits.queue_items
        if items > limit:
            raise NeverFitsError(f"{items} items, and the whole queue holds {limit}; send them in several requests")
        waiting = self._line.items + self.reserved_items
        if waiting + items > limit:
            raise QueueFullError(
                f"{waiting} items are waiting, {items} more do not fit the limit of {limit}",
                self.retry_after(),
                "queue_full",
            )
        return Reservation(self, items)

    async def run(self, sequences: Sequence[IntArray], reservation: Reservation, deadline: float | None) -> Scored:
        """Score the token sequences of one request, whose places were reserved. Cancel it to drop what still waits.

        Args:
            sequences: N >= 1 sequences, each (L,) int64.
            reservation: released when the request joins the line, in the same step of the event loop.
            deadline: monotonic seconds after which no more of it goes into a batch.

        Raises:
            NeverFitsError, QueueFullError: by tokens; nothing of the request was computed.
            DeadlineExceededError: time was up before all items were in a batch.
            EngineFailedError: a batch with an item of this request failed.
        """
        loop = asyncio.get_running_loop()
        distinct, place_of, order, added = await loop.run_in_executor(self._executor, _sharing, sequences, self._family)
        tokens = sum(added)
        self._admit_tokens(tokens)
        now = self._clock()
        work = Work(distinct, order, added, admitted=now, deadline=deadline)
        pending = _Pending(work, loop.create_future(), [math.nan] * len(distinct), len(distinct))
        reservation.release()
        self._line.join(work)
        self._pending[work] = pending
        self._pump()
        try:
            await pending.future
        finally:
            del self._pending[work]
            self._line.drop(work)
        self._metrics.tokens.labels("shared").inc(sum(map(len, sequences)) - sum(map(len, distinct)))
        started = pending.started if pending.started is not None else now
        return Scored([pending.rewards[place] for place in place_of], started - now, pending.infer_seconds, tokens)

    def retry_after(self) -> float:
        """Seconds until what waits now should be done, from the measured rate of tokens."""
        if not self._tokens_per_second:
            return 1.0
        return min(_MOST_RETRY, max(_LEAST_RETRY, self._line.tokens / self._tokens_per_second))

    def close(self) -> None:
        """Let the planning thread go."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    def _admit_tokens(self, tokens: int) -> None:
        limit = self.limits.queue_tokens
        if tokens > limit:
            raise NeverFitsError(f"{tokens} tokens, and the whole queue holds {limit}; send them in several requests")
        if self._line.tokens + tokens > limit:
            raise QueueFullError(
                f"{self._line.tokens} tokens are waiting, {tokens} more do not fit the limit of {limit}",
                self.retry_after(), "token_budget",
            )  # fmt: skip

    def _pump(self) -> None:
        """Form batches while the runner has room for one more."""
        while self._batches < _BATCHES_AHEAD:
            batch = self._line.take_batch(self._clock(), self._expire)
            if not batch:
                return
            self._batches += 1
            self._in_flight_items += len(batch)
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, batch: list[BatchItem]) -> None:
        sequences = [item.work.sequences[item.place] for item in batch]
        try:
            layout = await asyncio.get_running_loop().run_in_executor(self._planner, self._plan, sequences)
            result = await asyncio.wrap_future(self._runner.submit(layout))
            if result.rewards.ndim != 2 or len(result.rewards) != len(batch):
                raise EngineError(f"rewards of shape {result.rewards.shape} for {len(batch)} items")
            self._deliver(batch, layout, result)
        except Exception as error:  # whatever it is, it is this batch's alone
            self._metrics.engine_errors.labels("runtime").inc()
            self._fail(batch, error)
        # Not in a `finally`: this task is cancelled only when the loop ends, and then nothing new may begin.
        self._batches -= 1
        self._in_flight_items -= len(batch)
        self._pump()

    def _plan(self, sequences: Sequence[IntArray]) -> Layout:
        return plan_layout(sequences, self._family, block_queries=self._block_queries)

    def _deliver(self, batch: list[BatchItem], layout: Layout, result: BatchResult) -> None:
        seconds = result.ended - result.started
        self._measure(batch, layout, seconds)
        for item, reward in zip(batch, result.rewards[:, 0].astype(np.float64).tolist(), strict=True):
            pending = self._pending.get(item.work)
            if pending is None:  # the caller has left
                continue
            pending.rewards[item.place] = reward
            pending.left -= 1
        for pending in {id(p): p for item in batch if (p := self._pending.get(item.work))}.values():
            pending.started = result.started if pending.started is None else pending.started
            pending.infer_seconds += seconds
            if pending.left == 0 and not pending.future.done():
                pending.future.set_result(None)

    def _fail(self, batch: list[BatchItem], error: Exception) -> None:
        for work in {id(item.work): item.work for item in batch}.values():
            self._line.drop(work)  # its other items must not be computed for nothing
            pending = self._pending.get(work)
            if pending is not None and not pending.future.done():
                pending.future.set_exception(EngineFailedError(f"the batch of this request failed: {error}"))

    def _expire(self, work: Work) -> None:
        pending = self._pending.get(work)
        if pending is not None and not pending.future.done():
            pending.future.set_exception(DeadlineExceededError("the time for this request was up while it waited"))

    def _measure(self, batch: list[BatchItem], layout: Layout, seconds: float) -> None:
        metrics = self._metrics
        tokens = layout.tokens
        metrics.engine_batches.inc()
        metrics.engine_progress.set_to_current_time()
        metrics.batch_samples.observe(len(batch))
        metrics.batch_tokens.observe(tokens)
        metrics.tokens.labels("real").inc(tokens)
        metrics.tokens.labels("padding").inc(layout.query_slots - tokens)
        metrics.tokens.labels("shared").inc(sum(len(item.work.sequences[item.place]) for item in batch) - tokens)
        if seconds > 0:
            rate = tokens / seconds
            old = self._tokens_per_second
            self._tokens_per_second = rate if old is None else 0.8 * old + 0.2 * rate

    def _gauges(self) -> tuple[int, int, float, int, float]:
        items, tokens = self._line.items + self.reserved_items, self._line.tokens
        oldest = self._line.oldest
        saturation = max(items / self.limits.queue_items, tokens / self.limits.queue_tokens)
        return items, tokens, 0.0 if oldest is None else self._clock() - oldest, self._in_flight_items, saturation


def _sharing(sequences: Sequence[IntArray], family: Family) -> tuple[list[IntArray], list[int], list[int], list[int]]:
    """What of a request is to be computed, and in which order.

    Equal items become one: rounding depends on the place in a batch, and equal texts must tie.

    Returns:
        The distinct sequences; for each of `sequences` its place among them; the places in depth-first order; and the
        tokens that each of those adds to the ones before it.
    """
    keys = [sequence.tobytes() for sequence in sequences]
    by_key = dict(zip(keys, sequences, strict=True))
    places = {key: place for place, key in enumerate(by_key)}
    distinct, place_of = list(by_key.values()), [places[key] for key in keys]
    order = depth_first_order(distinct)
    if family is Family.CAUSAL:
        return distinct, place_of, order, added_tokens(distinct, order)
    return distinct, place_of, order, [len(distinct[place]) for place in order]
