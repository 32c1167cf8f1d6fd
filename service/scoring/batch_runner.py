"""One batch from its plan to what became of each of its items, parts of it run again where it failed or gave NaN."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.bundle.layout import Family, Layout, plan_layout
from service.engine.runner import BatchResult, Runner
from service.engine.session import EngineError, OutOfMemoryError, Rewards
from service.observability.metrics import Metrics
from service.scoring.batch import Batch
from service.scoring.flights import Flight
from service.scoring.waiting import WaitingItem

Mask = npt.NDArray[np.bool_]
OnRun = Callable[[Batch, Layout, BatchResult], None]


@dataclass(frozen=True)
class Scores:
    """Items that have scores.

    Attributes:
        items: of a batch.
        rewards: (N, heads) float32, NaN and infinities where an item has no others.
        started, ended: of the run that gave them, monotonic seconds.
    """

    items: list[WaitingItem]
    rewards: Rewards
    started: float
    ended: float


@dataclass(frozen=True)
class Failure:
    """Items that have none, and why."""

    items: list[WaitingItem]
    error: Exception


@dataclass(frozen=True)
class Unwanted:
    """Items that nobody waits for any more, and that were not computed."""

    items: list[WaitingItem]


Outcome = Scores | Failure | Unwanted
"""Each item of a batch is in one of them."""


class BatchRunner:
    """Plans batches off the event loop and runs them. Lives on the event loop.

    Args:
        runner: started.
        family, block_queries: of the bundle.
        metrics: errors are counted there.
        on_run: is told of every run that gave scores, of parts too.
    """

    def __init__(self, runner: Runner, family: Family, block_queries: int, metrics: Metrics, on_run: OnRun) -> None:
        self._runner = runner
        self._family = family
        self._block_queries = block_queries
        self._metrics = metrics
        self._on_run = on_run
        # A thread of its own: a plan must not wait behind texts that are being tokenized while the runner idles.
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="assay-plan")
        self._begun: set[Flight] = set()  # batches, and parts of them, that are planned, queued or running

    def close(self) -> None:
        """Let the planning thread go."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    async def run(self, flight: Flight, may_split: bool) -> AsyncIterator[Outcome]:
        """Run a batch; what is known of some items is told at once, while parts with the others run again.

        Args:
            flight: the batch.
            may_split: try a batch that failed again in two halves, which then fail alone.
        """
        if not any(item.waiters for item in flight.items):
            yield Unwanted(flight.items)  # of a part: all who waited have left, or were told that the engine is gone
            return
        try:
            ran = await self._run_once(flight)
        except Exception as error:  # whatever it is, it is this batch's alone
            parts = self._after_failure(flight, error, may_split)
            may_split = False
            if not parts:
                yield Failure(flight.items, error)
        else:
            if ran is None:
                return  # `give_up` has told
            layout, result, finite = ran
            self._on_run(flight.batch, layout, result)
            outcomes, parts = _after_run(flight, result, finite)
            for outcome in outcomes:
                yield outcome
        for part in parts:
            async for outcome in self.run(part, may_split):
                yield outcome

    def give_up(self) -> Iterator[Unwanted]:
        """Take back the batches, and parts of them, that nobody waits for any more, if they do not run yet."""
        for flight in self._begun:
            if flight.given_up or any(item.waiters for item in flight.items):
                continue
            if flight.submitted is None or flight.submitted.cancel():
                flight.given_up = True
                yield Unwanted(flight.items)

    async def _run_once(self, flight: Flight) -> tuple[Layout, BatchResult, Mask] | None:
        """What ran, and which items (N,) have finite scores; None where everybody has left before it ran.

        Raises:
            EngineError: it failed. (Of other kinds: it could not be planned.)
        """
        self._begun.add(flight)
        try:
            layout = await asyncio.get_running_loop().run_in_executor(self._planner, self._plan, flight.batch)
            if flight.given_up:
                return None
            flight.submitted = self._runner.submit(layout)
            result = await asyncio.wrap_future(flight.submitted)
        except asyncio.CancelledError:
            if not flight.given_up:  # then it is the loop that ends, and nothing new may begin
                raise
            return None
        finally:
            self._begun.discard(flight)
        if result.rewards.ndim != 2 or len(result.rewards) != len(flight.items) or not result.rewards.shape[1]:
            raise EngineError(f"rewards of shape {result.rewards.shape} for {len(flight.items)} items")
        return layout, result, np.logical_and.reduce(np.isfinite(result.rewards), axis=1)

    def _plan(self, batch: Batch) -> Layout:
        sequences = list(batch.sequences.values())
        layout = self._runner.session.shaped(plan_layout(sequences, self._family, block_queries=self._block_queries))
        _ = layout.padded_cells  # counted here, and kept, so that the event loop need not
        return layout

    def _after_failure(self, flight: Flight, error: Exception, may_split: bool) -> list[Flight]:
        """The halves that are to be tried, or none."""
        kind = "oom" if isinstance(error, OutOfMemoryError) else "runtime"
        self._metrics.engine_errors.labels(kind).inc()
        return _halves(flight, flight.items) if may_split and len(flight.items) > 1 else []


def _after_run(flight: Flight, result: BatchResult, finite: Mask) -> tuple[list[Outcome], list[Flight]]:
    """What is known after a run, and the parts that are to be run again.

    NaN spreads to what is computed beside it, so items without finite scores are run again in ever smaller company; one
    that gets none alone has none. Where the budget for that ends, the items that are left fail, to be asked again,
    unless nothing in the batch was ever finite: then it is the model.
    """
    budget = flight.budget
    budget.any_finite |= bool(finite.any())
    if finite.all() or len(finite) == 1:
        return [_scores(flight, result, np.ones_like(finite))], []
    outcomes: list[Outcome] = [_scores(flight, result, finite)]
    left = list(itertools.compress(flight.items, ~finite))
    parts = _halves(flight, left)
    if budget.spend(len(parts), sum(part.batch.seconds for part in parts)):
        return outcomes, parts
    if not budget.any_finite:
        return [*outcomes, _scores(flight, result, ~finite)], []
    reason = f"{len(left)} items got no finite score beside each other, and there was no time to try each alone"
    return [*outcomes, Failure(left, EngineError(reason))], []


def _scores(flight: Flight, result: BatchResult, which: Mask) -> Scores:
    items = list(itertools.compress(flight.items, which))
    return Scores(items, result.rewards[which], result.started, result.ended)


def _halves(flight: Flight, items: list[WaitingItem]) -> list[Flight]:
    """Items of a flight in two parts, or in one where there is but one."""
    cut = len(items) // 2
    return [
        Flight(flight.batch.part([item.key for item in part]), part, flight.budget)
        for part in (items[:cut], items[cut:])
        if part
    ]
