"""An engine without a machine: the line with a picker, and a clock that only batches move."""

import sys
from dataclasses import dataclass, field

from hypothesis import strategies as st

from service.bundle.layout import Family, IntArray
from service.scoring.batch import Batch, Bounds
from service.scoring.cost import Attention, CostModel
from service.scoring.deterministic import RequestPicker
from service.scoring.picking import Picker
from service.scoring.prefixes import Sequences
from service.scoring.waiting import WaitingLine, Work

ANY = sys.maxsize
BY_TOKENS = CostModel(fixed=0.0, per_token=1.0, per_cell=0.0)
models = st.builds(CostModel, st.floats(0, 5), st.floats(0.01, 1), st.floats(0, 0.1))
bounds = st.builds(Bounds, st.integers(1, 60), st.integers(1, 400), st.floats(0.1, 30))


@dataclass
class Engine:
    """The line with its picker, and a clock that only batches move, by what they are predicted to take."""

    limits: Bounds
    model: CostModel = BY_TOKENS
    family: Family = Family.CAUSAL
    picks: type[Picker] | type[RequestPicker] = Picker
    now: float = 0.0
    batches: list[Batch] = field(default_factory=list)
    picked: dict[Work, float] = field(default_factory=dict)
    requests: int = 0

    def __post_init__(self) -> None:
        self.line = WaitingLine(self.family)
        self.picker = self.picks(self.line, self.limits, self.family, Attention(1))

    def join(self, *items: IntArray, deadline: float | None = None) -> Work:
        sequences = Sequences.of(items, self.family)
        if self.picks is RequestPicker:
            self.requests += 1
            sequences = sequences.of_one_request(self.requests)
        return self.line.join(sequences.distinct, self.now, deadline, self.model)

    def step(self) -> Batch:
        """Pick a batch and run it."""
        batch, late = self.picker.pick(self.now, self.model)
        for work in late:
            assert work.late(self.now)
            self.line.drop(work)
        items = self.line.take(batch.sequences)
        for item in items:
            assert item.wanted(self.now)
            self.picked |= dict.fromkeys(item.waiters, self.now)
        self.now += self.model.seconds(batch.tokens, batch.cells) if len(batch) else 0.0
        self.line.finish(items)
        self.batches.append(batch)
        return batch

    def alone(self, key: bytes) -> float:
        return Batch(self.limits, self.model, self.family, Attention(1)).alone(len(self.line[key].sequence))
