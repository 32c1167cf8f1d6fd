"""The single thread that runs batches, and its heartbeat."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from service.bundle.layout import Layout
from service.engine.session import EngineError, OutOfMemoryError, Rewards, Session

MOST_FAILED_PROBES = 3
"""In a row, each after a batch that failed: a batch and its halves are three at once."""
PROBES_FAIL_FOR = 5.0
"""Seconds between the first and the last of them, or more: what passes is no end."""


@dataclass(frozen=True)
class BatchResult:
    """Rewards of one batch and what it took.

    Attributes:
        rewards: (N, heads) float32.
        started, ended: monotonic seconds.
    """

    rewards: Rewards
    started: float
    ended: float


class Runner:
    """Runs submitted layouts one after the other.

    One thread, because a session has one compute stream and concurrent runs only queue inside it
    (onnxruntime#12049); and not the event loop, because health must not wait behind a batch.

    A batch that fails is followed by the probe, once there is one: where that fails too, again and again, it is not the
    batches, and the engine is dead. Errors of CUDA, for one, stay until the process ends. A lack of memory does not
    count: somebody else may have taken it, and a new process would have no more.

    Args:
        session: what runs a batch.
        clock: monotonic seconds.

    Attributes:
        probe: a small batch that ran; the warm-up leaves it.
        broken: why the engine is dead, if it is.
    """

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self.session = session
        self._clock = clock
        self._work: queue.SimpleQueue[tuple[Layout, Future[BatchResult]] | None] = queue.SimpleQueue()
        self._door = threading.Lock()  # nothing may be queued behind the mark that ends the thread
        self._closed = False
        self.probe: Layout | None = None
        self.broken: str | None = None
        self._failed_probes: list[float] = []  # when, since the last batch that did not fail
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._loop, name="assay-runner", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Finish what was submitted and end; false if the thread still runs after `timeout` seconds."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._work.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def submit(self, layout: Layout) -> "Future[BatchResult]":
        """Queue one batch. The future fails with `EngineError` if the batch does; cancelled in time, it never runs."""
        future: Future[BatchResult] = Future()
        with self._door:
            if self._closed or not self._thread.is_alive():
                future.set_exception(EngineError("the engine is not running"))
            else:
                self._work.put((layout, future))
        return future

    def alive(self, stuck_after: float) -> bool:
        """The heartbeat: the engine works, and is idle or at most `stuck_after` seconds into a batch."""
        busy_since = self._busy_since
        works = self.broken is None and self._thread.is_alive()
        return works and (busy_since is None or self._clock() - busy_since <= stuck_after)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            layout, future = work
            if not future.set_running_or_notify_cancel():
                continue
            outcome = self._run(layout)
            if isinstance(outcome, BatchResult):
                future.set_result(outcome)
                self._failed_probes.clear()
            else:
                future.set_exception(outcome)
                self._probe()

    def _probe(self) -> None:
        """After a batch that failed: look whether any other would."""
        if self.probe is None:
            return
        outcome = self._run(self.probe)
        if isinstance(outcome, BatchResult):
            self._failed_probes.clear()
        if isinstance(outcome, BatchResult | OutOfMemoryError):
            return
        self._failed_probes.append(self._clock())
        lasted = self._failed_probes[-1] - self._failed_probes[0]
        if len(self._failed_probes) >= MOST_FAILED_PROBES and lasted >= PROBES_FAIL_FOR:
            self.broken = f"the engine fails on every batch: {outcome}"

    def _run(self, layout: Layout) -> BatchResult | EngineError:
        started = self._busy_since = self._clock()
        try:
            return BatchResult(self.session.run(layout), started, self._clock())
        except EngineError as error:
            return error
        except BaseException as error:  # nothing may end this thread but stop()
            return EngineError(f"a batch failed unexpectedly: {error!r}")
        finally:
            self._busy_since = None
