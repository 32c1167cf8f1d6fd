"""A simulation of many replicas and workers with the autoscaler in the loop, in virtual time.

Workers of a PPO job act together: all send a group at the same moment of a step, wait for their scores, and learn until
the next. Replicas are fluid servers of a measured rate. The autoscaler is that of `k8s/components/keda`: every 15 s it
reads what waits and runs, wants `ceil(items / 512)` replicas within its bounds, scales up at once and down by the
highest wish of the last 300 s; a new replica serves after it has started.
"""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

POLL_S, DOWN_S = 15.0, 300.0
TICK_S = 0.25

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """Attributes: see the names; times in seconds, rates in items a second and replica."""

    workers: int
    items: int = 8
    step_s: float = 120.0
    steps: int = 15
    rate: float = 500.0
    start_s: float = 60.0
    threshold: int = 512
    least: int = 2
    most: int = 200
    autoscaled: bool = True
    balancing: str = "sdk"
    seed: int = 0


@dataclass
class Outcome:
    """Attributes: seconds from each burst until it is done, replicas over time, and what they cost."""

    drains: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    replica_hours: float = 0.0
    served: float = 0.0


def desired(items: float, scenario: Scenario) -> int:
    """What the scaler wants for so many items that wait or run."""
    return min(scenario.most, max(scenario.least, math.ceil(items / scenario.threshold)))


def spread(items: float, workers: int, replicas: int, balancing: str, generator: np.random.Generator) -> FloatArray:
    """Items of a burst by replica.

    By the SDK's choice each request goes to the less busy of two drawn ones; pinned, each worker's connection was drawn
    once.
    """
    each = items / workers
    load: FloatArray = np.zeros(replicas)
    if balancing == "pinned":
        load += generator.multinomial(workers, np.full(replicas, 1 / replicas)) * each
        return load
    for first, second in generator.integers(0, replicas, (workers, 2)):
        load[first if load[first] <= load[second] else second] += each
    return load


def simulate(scenario: Scenario) -> Outcome:
    """Let the steps pass; the next begins `step_s` after the one before, or when that is done."""
    generator, outcome = np.random.default_rng(scenario.seed), Outcome()
    ready = scenario.least if scenario.autoscaled else scenario.most
    starting: deque[tuple[float, int]] = deque()  # when, how many
    wishes: deque[tuple[float, int]] = deque()
    queues = np.zeros(ready)
    now, polled = 0.0, 0.0
    for _ in range(scenario.steps):
        began = now
        items = float(scenario.workers * scenario.items)
        queues = queues + spread(items, scenario.workers, len(queues), scenario.balancing, generator)
        drained: float | None = None
        while drained is None or now < began + scenario.step_s:
            now += TICK_S
            served = np.minimum(queues, scenario.rate * TICK_S)
            queues = queues - served
            outcome.served += float(served.sum())
            outcome.replica_hours += (len(queues) + sum(count for _, count in starting)) * TICK_S / 3600
            while starting and starting[0][0] <= now:
                count = starting.popleft()[1]
                queues = np.concatenate([queues, np.zeros(count)])
                if scenario.balancing == "sdk":
                    # What callers were refused, or send next, goes to those that have room.
                    queues = np.full(len(queues), queues.sum() / len(queues))
            if scenario.autoscaled and now >= polled + POLL_S:
                polled = now
                wish = desired(float(queues.sum()), scenario)
                wishes.append((now, wish))
                while wishes[0][0] < now - DOWN_S:
                    wishes.popleft()
                have = len(queues) + sum(count for _, count in starting)
                if wish > have:
                    starting.append((now + scenario.start_s, wish - have))
                elif (highest := max(wish for _, wish in wishes)) < len(queues) and not starting:
                    kept, gone = queues[:highest], queues[highest:]
                    queues = kept + gone.sum() / highest  # a drain ends what it has; callers go elsewhere
            if drained is None and queues.sum() <= 1e-6:
                drained = now - began
        outcome.drains.append(drained)
        outcome.replicas.append(len(queues))
    return outcome
