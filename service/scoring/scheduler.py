"""From waiting requests to batches on the runner, and back to the callers. Lives on the event loop alone."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping

import numpy as np

from service.bundle.layout import Family, IntArray, Layout
from service.engine.runner import BatchResult, Runner
from service.observability.metrics import Metrics
from service.observability.peak import Peak
from service.scoring.admission import Admission, Limits, Reservation
from service.scoring.batch import Batch, Bounds
from service.scoring.batch_runner import BatchRunner, Failure, Scores
from service.scoring.cache import HeadScores, ScoreCache
from service.scoring.cost import Attention, CostModel
from service.scoring.deterministic import RequestPicker
from service.scoring.errors import DeadlineExceededError, EngineFailedError
from service.scoring.flights import Flight, Pending, RerunBudget, Scored
from service.scoring.pace import Pace
from service.scoring.picking import Picker
from service.scoring.prefixes import Sequences, forest_tokens
from service.scoring.waiting import WaitingLine, Work

logger = logging.getLogger("assay.scoring")

_TIMERS_EARLY = 0.005
"""Seconds by which the event loop's timer of a deadline may run before the deadline: it counts whole milliseconds."""
_BATCHES_AHEAD = 2
"""One batch runs and one is ready behind it, so that the runner never waits for a plan."""


class Scheduler:
    """Admits requests whole, batches them without a timer, and hands each its scores.

    A batch is formed when the runner has room for one, from whatever waits at that moment (`Picker` says which items
    and how long any request may wait); it is planned off the event loop while the batch before it runs.

    Args:
        runner: started.
        family, block_queries: of the bundle.
        limits: of queue and batches.
        metrics: what to count in.
        clock: monotonic seconds.
        cache: scores of before, None to compute everything.
        deterministic: batch each request alone, so that equal requests get scores that are equal to the bit. A batch
            that fails is then not tried again in halves: they would round otherwise, and another time none might fail.
    """

    def __init__(
        self,
        runner: Runner,
        family: Family,
        block_queries: int,
        limits: Limits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        cache: ScoreCache | None = None,
        deterministic: bool = False,
    ) -> None:
        self.family = family
        self._metrics = metrics
        self._clock = clock
        self._cache = cache
        self._line = WaitingLine(family)
        self._pace = Pace()
        self.admission = Admission(limits, self._line, self._pace, deterministic)
        bounds = Bounds(limits.batch_tokens, limits.batch_cells, limits.batch_seconds)
        picker = RequestPicker if deterministic else Picker
        self._picker: Picker | RequestPicker = picker(self._line, bounds, family, Attention(block_queries))
        self._deterministic = deterministic
        self._requests = itertools.count()
        self._batches = BatchRunner(runner, family, block_queries, metrics, self._measure)
        self._pending: dict[Work, Pending] = {}
        self._flights: dict[Flight, asyncio.Task[None]] = {}
        self._gone: str | None = None  # why the engine will not run any more
        self._peak = Peak(clock)
        metrics.watch_queue(self._gauges, limits.queue_items)

    def use_cost_model(self, model: CostModel) -> None:
        """Predict with a model that was measured on this machine; real batches go on to correct its scale."""
        self._pace.use(model)

    async def run(self, sequences: Sequences, reservation: Reservation, deadline: float | None) -> Scored:
        """Score the token sequences of one request, whose places were reserved. Cancel it to drop what still waits.

        Args:
            sequences: at least one.
            reservation: released when the request joins the line, in the same step of the event loop.
            deadline: monotonic seconds after which no more of it goes into a batch.

        Raises:
            NeverFitsError, QueueFullError: by tokens or time; nothing of the request was computed.
            DeadlineExceededError: time was up before all items were in a batch.
            EngineFailedError: a batch with an item of this request failed, or the engine will not run any more.
        """
        now = self._clock()
        if self._gone is not None:
            raise EngineFailedError(self._gone)
        if deadline is not None and deadline <= now:
            raise DeadlineExceededError("the time for this request was up before it could join the queue")
        if self._deterministic:
            sequences = sequences.of_one_request(next(self._requests))
        known = self._known(sequences)
        wanted = {key: sequence for key, sequence in sequences.distinct.items() if key not in known}
        fresh = [sequence for key, sequence in wanted.items() if key not in self._line]
        all_fresh = len(fresh) == len(sequences.distinct)
        tokens = sequences.tokens if all_fresh else forest_tokens(fresh, self.family)
        self.admission.check_tokens(sequences.tokens, tokens)
        reservation.release()
        queue_seconds = infer_seconds = 0.0
        if wanted or not known:
            pending = await self._wait_for(wanted, now, deadline)
            known |= pending.rows
            queue_seconds = max(0.0, (pending.started or now) - now)  # what runs already began before it came
            infer_seconds = pending.infer_seconds
        self._metrics.tokens.labels("shared").inc(sequences.input_tokens - sum(map(len, fresh)))
        return Scored([known[key] for key in sequences.keys], queue_seconds, infer_seconds, tokens)

    async def _wait_for(self, sequences: Mapping[bytes, IntArray], now: float, deadline: float | None) -> Pending:
        """Have sequences scored; raises as `run` does, once the request has left the line."""
        work = self._line.join(sequences, now, deadline, self._pace.model)
        pending = self._pending[work] = Pending(work, asyncio.get_running_loop().create_future())
        try:
            self.admission.check_time(work, sum(flight.batch.seconds for flight in self._flights), now)
            self._peak.see(self.admission.items + self._line.running)
            self._pump()
            await pending.future
            self.admission.learn(work, self._clock() - now, done=True)
        except BaseException:
            if work.late(self._clock() + _TIMERS_EARLY):
                self.admission.learn(work, self._clock() - now, done=False)
            self._line.drop(work)
            self._give_up_unwanted()
            raise
        finally:
            del self._pending[work]
        return pending

    def _known(self, sequences: Sequences) -> dict[bytes, HeadScores]:
        """Scores that the cache has."""
        if self._cache is None:
            return {}
        found = {key: score for key in sequences.distinct if (score := self._cache.get(key)) is not None}
        self._metrics.cache_hits.inc(len(found))
        return found

    def fail_all(self, reason: str) -> None:
        """Fail every request, those that are still to come too: the engine will not run any more."""
        self._gone = reason
        for work in list(self._pending):
            self._line.drop(work)
            self._fail(work, EngineFailedError(reason))

    def close(self) -> None:
        """Let the planning thread go."""
        self._batches.close()

    def _pump(self) -> None:
        """Form batches while the runner has room for one more."""
        while len(self._flights) < _BATCHES_AHEAD:
            batch, late = self._picker.pick(self._clock(), self._pace.model)
            for work in late:
                self._line.drop(work)
                self._fail(work, DeadlineExceededError("the time for this request was up while it waited"))
            if not batch:
                return
            flight = Flight(batch, self._line.take(batch.sequences), RerunBudget.of(batch))
            self._flights[flight] = asyncio.get_running_loop().create_task(self._fly(flight))

    async def _fly(self, flight: Flight) -> None:
        try:
            async for outcome in self._batches.run(flight, may_split=not self._deterministic):
                self._line.finish(outcome.items)
                if isinstance(outcome, Scores):
                    self._hand_out(outcome)
                elif isinstance(outcome, Failure):
                    self._crash(outcome)
        except Exception as error:  # a defect of ours: nobody may wait for it, now or when the same text comes again
            logger.exception("a batch of %d items was not brought to its end", len(flight.items))
            self._line.finish(flight.items)
            self._crash(Failure(flight.items, error))
        finally:
            del self._flights[flight]
        self._pump()

    def _hand_out(self, scores: Scores) -> None:
        rows = map(tuple, scores.rewards.astype(np.float64).tolist())
        waited: dict[Pending, None] = {}
        for item, row in zip(scores.items, rows, strict=True):
            if self._cache is not None:
                self._cache.put(item.key, row)
            for work in item.waiters:
                pending = self._pending[work]
                pending.rows[item.key] = row
                waited[pending] = None
        for pending in waited:
            pending.started = scores.started if pending.started is None else pending.started
            pending.infer_seconds += scores.ended - scores.started
            if len(pending.rows) == len(pending.work.items) and not pending.future.done():
                pending.future.set_result(None)

    def _crash(self, failure: Failure) -> None:
        for work in {work: None for item in failure.items for work in item.waiters}:
            self._line.drop(work)  # its other items must not be computed for nothing
            self._fail(work, EngineFailedError(f"the batch of this request failed: {failure.error}"))

    def _fail(self, work: Work, error: Exception) -> None:
        pending = self._pending.get(work)  # none where it was told already
        if pending is not None and not pending.future.done():
            pending.future.set_exception(error)

    def _give_up_unwanted(self) -> None:
        for unwanted in self._batches.give_up():
            self._line.finish(unwanted.items)  # whoever asks for one of them now must not wait for this batch

    def _measure(self, batch: Batch, layout: Layout, result: BatchResult) -> None:
        self._metrics.observe_batch(
            items=len(batch),
            tokens=layout.tokens,
            shared_tokens=sum(map(len, batch.sequences.values())) - layout.tokens,
            padded_tokens=layout.padded_tokens,
            cells=layout.cells,
            padded_cells=layout.padded_cells,
        )
        self._pace.learn(batch.tokens, batch.cells, result.ended - result.started)
        self._metrics.cost_scale.set(self._pace.scale)

    def _gauges(self) -> tuple[int, int, float, int, float, float]:
        line, oldest = self._line, self._line.oldest
        age = 0.0 if oldest is None else self._clock() - oldest
        admission = self.admission
        self._peak.see(admission.items + line.running)  # what still waits, also where nobody has come for a while
        return admission.items, line.index.tokens, age, line.running, admission.saturation, self._peak.most()
