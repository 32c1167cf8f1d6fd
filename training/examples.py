"""What a step sees: elements of token sequences, and batches of them as tensors over a layout."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from service.bundle.layout import Family, IntArray, Layout, plan_layout
from training.data.record import Judgement, PreferenceRecord
from training.encoding import Example, records_of
from training.groups import compared_groups, covered
from training.judgement_weights import WeightTable
from training.length import log_length


@dataclass(frozen=True)
class Element:
    """What one step sees of an example: some of its responses and all judgements among them.

    Attributes:
        sequences: (L,) int64 of each of the R responses.
        log_lengths: (R,) of the responses' texts, see `training.length.log_length`.
        judgements: P of them, by place among the R.
        weights: (P, heads) float32, what each judgement weighs for each head that learns.
    """

    sequences: list[IntArray]
    log_lengths: list[float]
    judgements: list[Judgement]
    weights: npt.NDArray[np.float32]


class ElementDataset(Dataset[Element]):
    """Elements of at most `max_responses` responses, each with a judgement.

    A prompt with more judged responses is cut into groups of compared ones, drawn anew each epoch, so that more of
    its judgements are seen with every epoch. Their number stays, so that epochs are of one length.

    Args:
        examples: what to learn from.
        weights: of their judgements, see `training.judgement_weights.judgement_weights`.
        max_responses: the most responses of one element, >= 2.
        seed: of the grouping, and of what a broken number of passes leaves out.
        passes: how often an epoch sees the examples of a source, by its name; others once.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        weights: WeightTable,
        max_responses: int,
        seed: int,
        passes: Mapping[str, float] | None = None,
    ) -> None:
        self._examples = examples
        self._records = records_of(examples)
        self._weights = weights
        self._max_responses = max_responses
        self._seed = seed
        self._epoch = 0
        self._groups: dict[int, list[list[int]]] = {}
        counts, sources = np.ones(len(examples), dtype=np.int64), np.zeros(len(examples), dtype=np.int64)
        named = list(passes or {})
        self._large: list[int] = []
        for number, record in enumerate(self._records):
            if len(record.responses) > max_responses:
                self._large.append(number)
                counts[number] = len(self._drawn(record, None))
            if record.source in named:
                sources[number] = 1 + named.index(record.source)
        self._counts = counts
        owner = np.repeat(np.arange(len(examples)), counts)
        part = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._every = np.stack([owner, part], axis=1)
        self._passes = [(sources[owner] == 1 + place, (passes or {})[name]) for place, name in enumerate(named)]
        self._slots = self._mixed()

    def set_epoch(self, epoch: int) -> None:
        """Draw new groups; the training loop calls this at the start of each epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._groups.clear()
            self._slots = self._mixed()

    @property
    def judgements(self) -> int:
        """All judgements of the examples."""
        return self._weights.judgements

    @property
    def judgements_seen(self) -> int:
        """Those that this epoch sees: of a large prompt not all are in one group, of a mix not all prompts."""
        groups: dict[int, list[int]] = {}
        large = set(self._large)
        seen = 0
        for number, part in np.unique(self._slots, axis=0).tolist():
            if number in large:
                groups.setdefault(number, []).append(part)
            else:
                seen += self._weights.judgements_of(number)
        for number, parts in groups.items():
            drawn = self._groups_of(number)
            seen += covered(self._records[number].judgements, [drawn[part] for part in parts])
        return seen

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: int) -> Element:
        number, part = self._slots[slot].tolist()
        example = self._examples[number]
        responses = len(example.record.responses)
        group = range(responses) if responses <= self._max_responses else self._groups_of(number)[part]
        return _element(example, self._weights[number], group)

    def _groups_of(self, number: int) -> list[list[int]]:
        if number not in self._groups:
            self._groups[number] = self._drawn(self._records[number], int(self._counts[number]))
        return self._groups[number]

    def _drawn(self, record: PreferenceRecord, count: int | None) -> list[list[int]]:
        generator = random.Random(f"{self._seed}:{self._epoch}:{record.id}")
        return compared_groups(record.judgements, self._max_responses, generator, count)

    def _mixed(self) -> npt.NDArray[np.int64]:
        """Example and group (S, 2) of each element of this epoch: as many in all epochs."""
        times = np.ones(len(self._every), dtype=np.int64)
        generator = np.random.default_rng([self._seed, self._epoch])
        for mask, wanted in self._passes:
            times[mask] = int(wanted)
            chosen = np.flatnonzero(mask)
            more = round((wanted - int(wanted)) * len(chosen))
            if len(chosen) and wanted < 1:  # a source that is named is in every epoch, however small
                more = max(1, more)
            times[generator.choice(chosen, more, replace=False)] += 1
        return self._every if not self._passes else np.repeat(self._every, times, axis=0)


def _element(example: Example, weights: npt.NDArray[np.float32], responses: Sequence[int]) -> Element:
    place = {response: number for number, response in enumerate(responses)}
    judgements = example.record.judgements
    seen = [number for number, judgement in enumerate(judgements) if judgement.i in place and judgement.j in place]
    return Element(
        sequences=[example.items[response].ids for response in responses],
        log_lengths=[log_length(example.record.responses[response]) for response in responses],
        judgements=[
            judgements[number].model_copy(update={"i": place[judgements[number].i], "j": place[judgements[number].j]})
            for number in seen
        ],
        weights=weights[seen],
    )


@dataclass(frozen=True)
class Collator:
    """Elements to the tensors of one step: the layout, and P judgements as indices into its N scores.

    Attributes:
        rankings: also give the responses of each element in their order of preference.
        length_slope: of the term that explains preferences by length; 0 for none.
    """

    family: Family
    block_queries: int
    rankings: bool = False
    length_slope: float = 0.0

    def __call__(self, elements: Sequence[Element]) -> dict[str, torch.Tensor]:
        """The batch.

        Returns:
            Layout tensors by name; `first`, `second`, `element` (P,) int64; `preference`, `tie`, `margin`,
            `length_term` (P,) float32; `weights` (P, heads) float32; with `rankings` also `ranking` (E, R) int64,
            indices into the scores, best first, -1 behind the end of a shorter one.
        """
        sequences = [sequence for element in elements for sequence in element.sequences]
        starts = np.cumsum([0, *(len(element.sequences) for element in elements)])
        rows = [
            (
                starts[number] + j.i, starts[number] + j.j, number,
                j.soft_label, j.ties / j.votes, j.margin or 0.0,
                self.length_slope * (element.log_lengths[j.i] - element.log_lengths[j.j]),
            )
            for number, element in enumerate(elements)
            for j in element.judgements
        ]  # fmt: skip
        columns = np.array(rows, dtype=np.float64).reshape(-1, len(_COLUMNS)).T
        batch = layout_tensors(plan_layout(sequences, self.family, block_queries=self.block_queries))
        for (name, kind), column in zip(_COLUMNS.items(), columns, strict=True):
            batch[name] = torch.from_numpy(column.astype(kind))
        batch["weights"] = torch.from_numpy(np.concatenate([element.weights for element in elements]))
        if self.rankings:
            batch["ranking"] = _rankings(elements, starts.tolist())
        return batch


_COLUMNS = {
    "first": np.int64, "second": np.int64, "element": np.int64,
    "preference": np.float32, "tie": np.float32, "margin": np.float32, "length_term": np.float32,
}  # fmt: skip


def _rankings(elements: Sequence[Element], starts: Sequence[int]) -> torch.Tensor:
    orders = [ranking(element.judgements) for element in elements]
    padded = np.full((len(elements), max(map(len, orders))), -1, dtype=np.int64)
    for number, (order, start) in enumerate(zip(orders, starts, strict=False)):
        padded[number, : len(order)] = np.array(order) + start
    return torch.from_numpy(padded)


def ranking(judgements: Sequence[Judgement]) -> list[int]:
    """The judged responses, best first.

    Raises:
        ValueError: the judgements are not those of one order: a pair is missing, tied, or judged against the others.
    """
    beats: dict[int, set[int]] = {}
    for judgement in judgements:
        beats.setdefault(judgement.i, set())
        beats.setdefault(judgement.j, set())
        if judgement.i_wins != judgement.j_wins:
            won = judgement.i_wins > judgement.j_wins
            winner, loser = (judgement.i, judgement.j) if won else (judgement.j, judgement.i)
            beats[winner].add(loser)
    order = sorted(beats, key=lambda response: -len(beats[response]))
    if any(beats[response] != set(order[place + 1 :]) for place, response in enumerate(order)):
        raise ValueError("its judgements are no ranking: one of a pair of responses is missing, tied or contradicted")
    return order


def layout_tensors(layout: Layout) -> dict[str, torch.Tensor]:
    """The arrays of a layout as tensors, by graph input name."""
    return {name: torch.from_numpy(array) for name, array in layout.arrays().items()}
