"""What the routes need of the running server."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from fastapi import Request

from service.api.bodies import BodyBudget
from service.engine.gate import Gate
from service.engine.runner import Runner
from service.observability.metrics import Metrics
from service.reloading import Reloaded
from service.scoring.scorer import Scorer
from service.settings import Settings

T = TypeVar("T")

LARGE_BYTES = 2**16
"""From here on JSON is not read or written on the event loop, where probes would wait for it."""


class State(StrEnum):
    """Where the server is in its life."""

    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    WEDGED = "wedged"  # the engine hangs; see `Context.shown_state`
    FAILED = "failed"


@dataclass
class Context:
    """The running server, as routes see it."""

    settings: Settings
    metrics: Metrics
    runner: Runner
    scorer: Scorer
    version: str
    gate: Gate | None = None
    on_failed: Callable[[], None] = lambda: None
    on_ready: Callable[[], None] = lambda: None
    failure: str | None = field(default=None, init=False)
    followed: list[Reloaded[Any]] = field(default_factory=list, init=False)  # files that are looked at every second
    bodies: BodyBudget = field(init=False)
    # One thread each way: more would only take the interpreter's lock from the loop in turn, and with one for both a
    # body would wait behind large replies.
    body_thread: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "assay-bodies"), init=False)
    reply_thread: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "assay-replies"), init=False)
    _state: State = field(default=State.STARTING, init=False)

    def __post_init__(self) -> None:
        self.bodies = BodyBudget(self.settings.max_bodies_bytes)
        self.metrics.set_duration_buckets(self.settings.duration_buckets_s)
        self.metrics.watch_bodies(lambda: self.bodies.held)
        self.metrics.watch_state(lambda: self.shown_state)

    @property
    def state(self) -> State:
        """Where the server is in its life."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        if state is State.READY:
            self.on_ready()

    def fail(self, reason: str) -> None:
        """Give up for good; the process ends with the reason."""
        self.failure = reason
        self.state = State.FAILED
        self.on_failed()

    @property
    def alive(self) -> bool:
        """Whether the engine makes progress, or has nothing to do."""
        return self._state is not State.FAILED and self.runner.alive(self.settings.stuck_after_s)

    @property
    def shown_state(self) -> State:
        """The state as probes and metrics have it: whatever the server is doing, it does not while its engine hangs."""
        if self._state in (State.STARTING, State.FAILED) or self.alive:
            return self._state
        return State.WEDGED

    def count_refusal(self, code: str) -> None:
        """Count what the HTTP parser refuses before there is a request."""
        reasons = {"headers_too_large": "headers", "request_timeout": "slow_request"}
        self.metrics.rejected.labels(reasons.get(code, code)).inc()


class ClientGoneError(Exception):
    """The client left; there is nobody to reply to."""


def context_of(request: Request) -> Context:
    """The context that the application was built with."""
    context: Context = request.app.state.context
    return context


async def aside(thread: Executor, size: int, work: Callable[[], T]) -> T:
    """Do `work` on JSON of `size` bytes: at once if it is small, else in the thread."""
    if size <= LARGE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(thread, work)


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, and drop it when the client disconnects. The request's body must have been read.

    Raises:
        ClientGoneError: the client left first.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for waiting in (task, watch):
            waiting.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
