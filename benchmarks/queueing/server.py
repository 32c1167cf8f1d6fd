"""A server in virtual time: the real line, picker, admission and pace, over an engine that only takes its time."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from service.bundle.layout import Family
from service.scoring.admission import Admission, Limits
from service.scoring.batch import FAMILY_STRETCH, Batch, Bounds
from service.scoring.cost import Attention, CostModel
from service.scoring.errors import QueueFullError
from service.scoring.pace import Pace
from service.scoring.picking import AGE_SHARE, Picker
from service.scoring.prefixes import Sequences
from service.scoring.waiting import WaitingItem, WaitingLine, Work

BATCHES_AHEAD = 2
ATTENTION = Attention(block_queries=128)


@dataclass
class Fate:
    """What became of one request; times in virtual seconds, None where it has not come to that.

    Attributes:
        kind: of the traffic.
        arrived: when it came.
        ended: when its last score was there.
        retry_after: what it was told when it was refused.
        bound: seconds of batches within which its last item must be picked.
        picked_after: seconds of batches after which it was.
    """

    kind: str
    arrived: float
    items: int
    ended: float | None = None
    retry_after: float | None = None
    bound: float = 0.0
    picked_after: float | None = None

    @property
    def latency(self) -> float | None:
        """Seconds from arrival to the last score."""
        return None if self.ended is None else self.ended - self.arrived


@dataclass(eq=False)
class _Request:
    """A request that was admitted: how many of its items are to come, and what to call when none is."""

    fate: Fate
    left: int
    picked_before: float
    on_end: Callable[[], None]


@dataclass
class Server:
    """Requests come by `post`; `run` lets virtual time pass.

    Args:
        truth: seconds that batches really take, before noise.
        limits: of queue and batches.
        noise: standard deviation of the logarithm of the real seconds over the true ones.
        seed: of the noise.

    Attributes:
        now: virtual seconds.
        busy_seconds: that the engine ran.
        idle_with_work: how often the engine had nothing to run although something waited.
    """

    truth: CostModel
    limits: Limits
    noise: float = 0.1
    seed: int = 0
    now: float = 0.0
    busy_seconds: float = 0.0
    idle_with_work: int = 0
    fates: list[Fate] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.line = WaitingLine(Family.CAUSAL)
        self.pace = Pace()
        self.pace.use(self.truth)
        self._admission = Admission(self.limits, self.line, self.pace)
        bounds = Bounds(self.limits.batch_tokens, self.limits.batch_cells, self.limits.batch_seconds)
        self._picker = Picker(self.line, bounds, Family.CAUSAL, ATTENTION)
        self._rng = np.random.default_rng(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._flights: deque[tuple[Batch, list[WaitingItem]]] = deque()
        self._running = False
        self._requests: dict[Work, _Request] = {}
        self._picked_seconds = 0.0
        self._waiting_seconds = 0.0

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have something happen at a virtual time."""
        heapq.heappush(self._events, (when, next(self._order), event))

    def run(self, until: float) -> None:
        """Let everything happen that is due by then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = max(self.now, until)

    def post(self, kind: str, sequences: Sequences, on_end: Callable[[], None] = lambda: None) -> Fate:
        """A request comes. `on_end` is called when all its scores are there."""
        fate = Fate(kind, self.now, len(sequences.keys))
        self.fates.append(fate)
        fresh = [sequence for key, sequence in sequences.distinct.items() if key not in self.line]
        try:
            reservation = self._admission.reserve(len(sequences.keys))
            reservation.release()
            self._admission.check_tokens(sequences.tokens, sequences.tokens)
        except QueueFullError as refusal:
            fate.retry_after = refusal.retry_after
            return fate
        work = self.line.join(sequences.distinct, self.now, None, self.pace.model)
        self._waiting_seconds += sum(map(self._alone, map(len, fresh)))
        longest = max(
            self.limits.batch_seconds * FAMILY_STRETCH, self._alone(max(map(len, sequences.distinct.values())))
        )
        fate.bound = self._waiting_seconds / AGE_SHARE + 2 * longest
        self._requests[work] = _Request(fate, len(work.items), self._picked_seconds, on_end)
        self._pump()
        return fate

    def _alone(self, tokens: int) -> float:
        return self.truth.seconds(tokens, ATTENTION.cells(tokens, tokens))

    def _pump(self) -> None:
        while len(self._flights) < BATCHES_AHEAD:
            batch, _ = self._picker.pick(self.now, self.pace.model)
            if not batch:
                break
            items = self.line.take(batch.sequences)
            for item in items:
                self._waiting_seconds -= self._alone(len(item.sequence))
                for work in item.waiters:
                    if not work.waiting:
                        request = self._requests[work]
                        request.fate.picked_after = self._picked_seconds - request.picked_before
            self._picked_seconds += self.truth.seconds(batch.tokens, batch.cells)
            self._flights.append((batch, items))
            self._start()
        if not self._running and len(self.line.index):
            self.idle_with_work += 1

    def _start(self) -> None:
        if self._running or not self._flights:
            return
        self._running = True
        batch = self._flights[0][0]
        seconds = self.truth.seconds(batch.tokens, batch.cells) * float(np.exp(self._rng.normal(0.0, self.noise)))
        self.busy_seconds += seconds
        self.at(self.now + seconds, lambda: self._end(seconds))

    def _end(self, seconds: float) -> None:
        batch, items = self._flights.popleft()
        self._running = False
        self._start()
        if not self._running and len(self.line.index):
            self.idle_with_work += 1
        self.batches.append(batch)
        self.pace.learn(batch.tokens, batch.cells, seconds)
        self.line.finish(items)
        ended: dict[Work, None] = {}
        for item in items:
            for work in item.waiters:
                self._requests[work].left -= 1
                if not self._requests[work].left:
                    ended[work] = None
        for work in ended:
            request = self._requests.pop(work)
            request.fate.ended = self.now
            request.on_end()
        self._pump()
