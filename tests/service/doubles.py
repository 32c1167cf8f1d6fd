"""Doubles for what the server runs on: a session that does as it is told, a runner that is watched, a clock."""

import asyncio
import math
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from service.bundle.layout import Family, Layout
from service.engine.runner import BatchResult, Runner
from service.engine.session import Placement, Rewards
from tests.pocket import pocket_reward
from tests.service.bundle.forests import seen_by

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""

WARM_UP_BATCHES = 8
"""Batches of a warm-up with the settings of the tests."""

Step = Callable[[Rewards], Rewards]
"""What a scripted session makes of the right rewards (N, 1) of one batch; it may raise."""


class Clock:
    """Monotonic seconds that move when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ScriptedSession:
    """Gives pocket rewards, except where a step was scripted, and can be held in the middle of a batch."""

    provider = "ScriptedProvider"
    precision = "fp32"
    placement = Placement({"ScriptedProvider": 1}, {})

    def __init__(self, family: Family = Family.CAUSAL) -> None:
        self.family = family
        self.layouts: list[Layout] = []
        self._steps: deque[Step] = deque()
        self._usual: Step = lambda rewards: rewards
        self._entered: queue.SimpleQueue[Layout] = queue.SimpleQueue()
        self._gate: threading.Semaphore | None = None

    def then(self, *steps: Step) -> None:
        """Script the next batches."""
        self._steps.extend(steps)

    def always(self, step: Step) -> None:
        """Script all batches that `then` does not."""
        self._usual = step

    def hold(self) -> None:
        """From now on, each batch waits for a `release`."""
        self._gate = threading.Semaphore(0)

    def release(self, batches: int = 1) -> None:
        """Let held batches go on."""
        assert self._gate is not None
        self._gate.release(batches)

    def let_go(self) -> None:
        """Let every batch go on, now and later."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release(1000)

    def pass_warm_up(self) -> None:
        """Wait until the batches of the warm-up have begun."""
        for _ in range(WARM_UP_BATCHES):
            self.wait_for_batch()

    def wait_for_batch(self) -> Layout:
        """The next batch that began to run."""
        return self._entered.get(timeout=PATIENCE)

    async def batch(self) -> Layout:
        """The same, without holding up the event loop."""
        return await asyncio.to_thread(self.wait_for_batch)

    def shaped(self, layout: Layout) -> Layout:
        return layout

    def run(self, layout: Layout) -> Rewards:
        self.layouts.append(layout)
        gate = self._gate
        self._entered.put(layout)
        if gate is not None:
            assert gate.acquire(timeout=PATIENCE)
        step = self._steps.popleft() if self._steps else self._usual
        return step(rewards_of(layout, self.family))


class WatchedRunner(Runner):
    """A runner that tells when a batch is handed to it."""

    def __init__(self, session: ScriptedSession, clock: Callable[[], float]) -> None:
        super().__init__(session, clock)
        self.submitted: queue.SimpleQueue[Layout] = queue.SimpleQueue()

    def submit(self, layout: Layout) -> "Future[BatchResult]":
        future = super().submit(layout)
        self.submitted.put(layout)
        return future

    async def submission(self) -> Layout:
        """The next batch that was handed over."""
        return await asyncio.to_thread(self.submitted.get, timeout=PATIENCE)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


def rewards_of(layout: Layout, family: Family) -> Rewards:
    """(N, 1) pocket rewards, from the tokens that each read token sees through its block."""
    rewards = np.empty((len(layout.read_index), 1), dtype=np.float32)
    for place, read in enumerate(layout.read_index.tolist()):
        rewards[place] = pocket_reward(layout.input_ids[seen_by(layout, read)], family)
    return rewards


def fails(error: BaseException) -> Step:
    """A batch that fails."""

    def step(_: Rewards) -> Rewards:
        raise error

    return step


def with_any_of(values: list[float], step: Step) -> Step:
    """What happens to a batch that has one of these rewards; all others are right."""

    def look(rewards: Rewards) -> Rewards:
        return step(rewards) if np.isclose(rewards, values, atol=1e-5).any() else rewards

    return look


def turns(reward: float, value: float = math.nan) -> Step:
    """A batch in which this reward is another number."""

    def step(rewards: Rewards) -> Rewards:
        return np.where(np.isclose(rewards, reward, atol=1e-5), np.float32(value), rewards)

    return step


def spoils(place: int, value: float = math.nan) -> Step:
    """A batch with another number in one place."""

    def step(rewards: Rewards) -> Rewards:
        rewards = rewards.copy()
        rewards[place] = value
        return rewards

    return step
