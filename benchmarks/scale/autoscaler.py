"""A simulation of many replicas and workers with the autoscaler in the loop, in virtual time.

Workers of a PPO job act together: all send a group at the same moment of a step, wait for their scores, and learn until
the next. Replicas are fluid servers of a measured rate with bounded queues; what a queue refuses comes back and is seen
by no metric. The autoscaler is what `k8s/components/keda` asks Kubernetes for: threshold, bounds, polling and the
window of scaling down are read from there; the rest is the default of a HorizontalPodAutoscaler (no change within 10 %
of the threshold; at most four replicas more, or twice as many, each 15 s). It goes by each replica's peak of the last
minute, as it was at the last scrape; a replica sees its queue when something comes and when it is scraped.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

TICK_S = 0.25
TOLERANCE = 0.1
MORE_AT_ONCE, POLICY_S = 4, 15.0
SCRAPE_S, PEAK_S = 15.0, 60.0
"""Seconds between two scrapes (`k8s/components/monitoring`), and of the peak that a replica tells
(`service.observability.peak`)."""
KEEP_ALIVE_S = 75.0
"""A server's default: a connection that was idle for longer is made anew, and drawn anew."""
MANIFEST = Path("k8s/components/keda/scaled-object.yaml")

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Autoscaler:
    """Attributes: items for each replica, bounds, seconds between polls and of the window of scaling down."""

    threshold: float
    least: int
    most: int
    poll_s: float
    down_s: float


@lru_cache
def of_manifest() -> Autoscaler:
    """What the ScaledObject says."""
    spec: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    return Autoscaler(
        float(spec["triggers"][0]["metadata"]["threshold"]), spec["minReplicaCount"], spec["maxReplicaCount"],
        float(spec["pollingInterval"]), float(behavior["scaleDown"]["stabilizationWindowSeconds"]),
    )  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """Times in seconds, rates in items a second and replica.

    Attributes:
        most: replicas, where more than the manifest allows.
        down_s: the window of scaling down, where another than the manifest's.
        fixed: so many replicas all the time, and no autoscaler.
        queue: items that a replica lets wait.
        start_s: within which a new replica gets ready, drawn for each.
        seed: also of when the autoscaler polls and Prometheus scrapes.
    """

    workers: int
    items: int = 8
    step_s: float = 120.0
    steps: int = 15
    rate: float = 180.0
    start_s: tuple[float, float] = (45.0, 90.0)
    queue: float = 8192.0
    most: int | None = None
    down_s: float | None = None
    fixed: int | None = None
    balancing: str = "sdk"
    seed: int = 0


@dataclass
class Outcome:
    """Attributes: seconds from each burst until it is done, replicas over time, and what they cost."""

    drains: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    replica_hours: float = 0.0
    served: float = 0.0


def desired(items: float, have: int, scaler: Autoscaler, most: int) -> int:
    """How many replicas there should be for so many items that wait or run."""
    if abs(items / (scaler.threshold * have) - 1) <= TOLERANCE:
        return have
    return min(most, max(scaler.least, ceil(items / scaler.threshold)))


def allowed(have: int, before: int) -> int:
    """The most replicas by the default policies, where there were `before` of them 15 s ago."""
    return max(before + MORE_AT_ONCE, 2 * before, have)


class Balancing:
    """Which replica gets what of a burst.

    By the SDK's choice each request of a burst goes to one drawn at that moment: all workers ask at once, and what
    replicas told of their load with the last replies says the same of all of them. Pinned, each worker's connection
    was drawn before and stays, so that replicas that come later get nothing from it; after a pause that is longer than
    servers keep connections open all are drawn anew.
    """

    def __init__(self, scenario: Scenario, generator: np.random.Generator) -> None:
        self._scenario, self._generator = scenario, generator
        self._drawn = np.zeros(0, dtype=np.int64)

    def spread(self, items: float, replicas: int, idle_s: float = 0.0) -> FloatArray:
        """Items by replica, after so many seconds without a request."""
        if self._scenario.balancing == "sdk" or not len(self._drawn) or idle_s > KEEP_ALIVE_S:
            self._drawn = self._generator.integers(0, replicas, self._scenario.workers)
        gone = self._drawn >= replicas  # with its replica a connection ends, and the next one is drawn
        self._drawn[gone] = self._generator.integers(0, replicas, int(gone.sum()))
        by_replica = np.bincount(self._drawn, minlength=replicas).astype(np.float64)
        return by_replica * np.float64(items / self._scenario.workers)


class Fleet:
    """What waits at each replica, and what each has refused and will get again."""

    def __init__(self, scenario: Scenario, replicas: int) -> None:
        self._scenario = scenario
        self.queues: FloatArray = np.zeros(replicas)
        self.refused: FloatArray = np.zeros(replicas)
        self._seen: deque[tuple[float, FloatArray]] = deque()

    def remember(self, now: float) -> None:
        """What waits now, for the peak of the next minute."""
        self._seen.append((now, self.queues))

    def peak(self, now: float) -> float:
        """The most that waited at once at each replica within the last minute, over all of them."""
        while self._seen and self._seen[0][0] < now - PEAK_S:
            self._seen.popleft()
        most: FloatArray = np.zeros(len(self))
        for _, queues in self._seen:  # of replicas that are gone nothing is scraped
            shared = min(len(queues), len(self))
            most[:shared] = np.maximum(most[:shared], queues[:shared])
        return float(most.sum())

    def __len__(self) -> int:
        return len(self.queues)

    @property
    def left(self) -> float:
        """All that is not done."""
        return float(self.queues.sum() + self.refused.sum())

    def serve(self, seconds: float) -> float:
        """Let the replicas work, and callers come back where there is room; gives the items done."""
        served = np.minimum(self.queues, self._scenario.rate * seconds)
        self.queues = self.queues - served
        if self._scenario.balancing == "sdk" and self.refused.any():
            # What was refused goes wherever there is room.
            room = self._scenario.queue - self.queues
            taken = min(float(self.refused.sum()), float(room.sum()))
            self.queues = self.queues + room * (taken / max(float(room.sum()), 1e-9))
            self.refused = self.refused * (1 - taken / float(self.refused.sum()))
        else:
            self.admit(np.zeros(len(self)))
        return float(served.sum())

    def admit(self, items: FloatArray) -> None:
        """Items come to each replica; what does not fit is refused."""
        wanted = self.queues + self.refused + items
        self.queues = np.minimum(wanted, self._scenario.queue)
        self.refused = wanted - self.queues

    def grow(self, replicas: int) -> None:
        """So many more are ready."""
        self.queues = np.concatenate([self.queues, np.zeros(replicas)])
        self.refused = np.concatenate([self.refused, np.zeros(replicas)])

    def shrink(self, replicas: int) -> None:
        """To so many. A drain ends what it has; here the others do."""
        moved = self.queues[replicas:].sum() + self.refused[replicas:].sum()
        self.queues, self.refused = self.queues[:replicas], self.refused[:replicas]
        self.admit(np.full(replicas, moved / replicas))


def simulate(scenario: Scenario) -> Outcome:
    """Let the steps pass; the next begins `step_s` after the one before, or when that is done."""
    generator, outcome, scaler = np.random.default_rng(scenario.seed), Outcome(), of_manifest()
    most, down_s = scenario.most or scaler.most, scenario.down_s or scaler.down_s
    fleet, balancing = Fleet(scenario, scenario.fixed or scaler.least), Balancing(scenario, generator)
    starting: list[float] = []  # when each will be ready
    wishes: deque[tuple[float, int]] = deque()
    sizes: deque[tuple[float, int]] = deque([(0.0, len(fleet))])
    now, polled, scraped = 0.0, -float(generator.uniform(0, scaler.poll_s)), -float(generator.uniform(0, SCRAPE_S))
    idle, known = 0.0, 0.0  # seconds without a request, and what the last scrape said
    for _ in range(scenario.steps):
        began = now
        fleet.admit(balancing.spread(float(scenario.workers * scenario.items), len(fleet), idle))
        fleet.remember(now)
        drained: float | None = None
        while drained is None or now < began + scenario.step_s:
            now += TICK_S
            if now >= scraped + SCRAPE_S or fleet.refused.any():  # what was refused comes back, where there is room
                fleet.remember(now)
            if now >= scraped + SCRAPE_S:
                scraped, known = now, fleet.peak(now)
            outcome.served += fleet.serve(TICK_S)
            outcome.replica_hours += (len(fleet) + len(starting)) * TICK_S / 3600
            ready = sum(moment <= now for moment in starting)
            starting = [moment for moment in starting if moment > now]
            if ready:
                fleet.grow(ready)
            if scenario.fixed is None and now >= polled + scaler.poll_s:
                polled = now
                have = len(fleet) + len(starting)
                wish = desired(known, have, scaler, most)
                wishes.append((now, wish))
                while wishes[0][0] < now - down_s:
                    wishes.popleft()
                while len(sizes) > 1 and sizes[1][0] <= now - POLICY_S:
                    sizes.popleft()
                target = min(wish, allowed(have, sizes[0][1]))
                if target > have:
                    ready_at = now + generator.uniform(*scenario.start_s, target - have)
                    starting += ready_at.tolist()
                    sizes.append((now, target))
                elif (highest := max(wish for _, wish in wishes)) < len(fleet) and not starting:
                    fleet.shrink(highest)
                    sizes.append((now, highest))
            if drained is None and fleet.left <= 1e-6:
                drained = now - began
        idle = now - began - drained
        outcome.drains.append(drained)
        outcome.replicas.append(len(fleet))
    return outcome
