"""Preference records as token sequences, batches of them as tensors over a layout."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from service.bundle.layout import Family, IntArray, Layout, plan_layout
from service.bundle.text_format import EncodedItem, Formatter, Truncation
from training.data.record import Judgement, PreferenceRecord
from training.groups import compared_groups, covered

TRAINING_TRUNCATION = (Truncation.PROMPT_LEFT, Truncation.RESPONSE_RIGHT)
"""In training the prompt goes first, as in evaluation; what was cut is counted and reported."""


@dataclass(frozen=True)
class Example:
    """One prompt: its tokenized items and the judgements between them."""

    record: PreferenceRecord
    items: tuple[EncodedItem, ...]

    @property
    def sequences(self) -> list[IntArray]:
        """(L,) int64 of each response."""
        return [item.ids for item in self.items]


@dataclass(frozen=True)
class Element:
    """What one step sees of an example: some of its responses and all judgements among them."""

    sequences: list[IntArray]
    judgements: list[Judgement]


def encode_records(records: Sequence[PreferenceRecord], formatter: Formatter, progress: bool = True) -> list[Example]:
    """Tokenize records; over-long items are cut from the prompt's left, then from the response's right.

    Raises:
        ValueError: an item that no cut makes fit, named by record and response.
        FormatError: the chat template refuses a prompt.
    """
    examples = []
    for record in tqdm(records, "tokenizing", unit=" records", disable=not progress, leave=False):
        items = formatter.encode(record.prompt, record.responses, TRAINING_TRUNCATION)
        for number, item in enumerate(items):
            if not isinstance(item, EncodedItem):
                raise ValueError(f"record {record.id!r}, response {number}: {item}")
        examples.append(Example(record, tuple(item for item in items if isinstance(item, EncodedItem))))
    return examples


def truncated(examples: Sequence[Example]) -> int:
    """Items that were cut to fit."""
    return sum(item.removed > 0 for example in examples for item in example.items)


class ElementDataset(Dataset[Element]):
    """Elements of at most `max_responses` responses, each with a judgement.

    A prompt with more judged responses is cut into groups of compared ones, drawn anew each epoch, so that more of
    its judgements are seen with every epoch. Their number stays, so that epochs are of one length.

    Args:
        examples: what to learn from.
        max_responses: the most responses of one element, >= 2.
        seed: of the grouping.
    """

    def __init__(self, examples: Sequence[Example], max_responses: int, seed: int) -> None:
        self._examples = examples
        self._max_responses = max_responses
        self._seed = seed
        self._epoch = 0
        self._groups: dict[int, list[list[int]]] = {}
        self._counts = [len(self._drawn(number, None)) for number in range(len(examples))]
        self._slots = [(number, part) for number, count in enumerate(self._counts) for part in range(count)]

    def set_epoch(self, epoch: int) -> None:
        """Draw new groups; the training loop calls this at the start of each epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._groups.clear()

    @property
    def judgements(self) -> int:
        """All judgements of the examples."""
        return sum(len(example.record.judgements) for example in self._examples)

    @property
    def judgements_seen(self) -> int:
        """Those that this epoch sees: of a large prompt, not all responses are in one group."""
        return sum(
            covered(example.record.judgements, self._groups_of(number)) for number, example in enumerate(self._examples)
        )

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: int) -> Element:
        number, part = self._slots[slot]
        return _element(self._examples[number], self._groups_of(number)[part])

    def _groups_of(self, number: int) -> list[list[int]]:
        if number not in self._groups:
            self._groups[number] = self._drawn(number, self._counts[number])
        return self._groups[number]

    def _drawn(self, number: int, count: int | None) -> list[list[int]]:
        record = self._examples[number].record
        if len(record.responses) <= self._max_responses:
            return [list(range(len(record.responses)))]
        generator = random.Random(f"{self._seed}:{self._epoch}:{record.id}")
        return compared_groups(record.judgements, self._max_responses, generator, count)


def _element(example: Example, responses: Sequence[int]) -> Element:
    place = {response: number for number, response in enumerate(responses)}
    judgements = [
        judgement.model_copy(update={"i": place[judgement.i], "j": place[judgement.j]})
        for judgement in example.record.judgements
        if judgement.i in place and judgement.j in place
    ]
    return Element([example.items[response].ids for response in responses], judgements)


@dataclass(frozen=True)
class Collator:
    """Elements to the tensors of one step: the layout, and P judgements as indices into its N scores."""

    family: Family
    block_queries: int

    def __call__(self, elements: Sequence[Element]) -> dict[str, torch.Tensor]:
        """Layout tensors by name, and `first`, `second`, `element` (P,) int64, `preference`, `margin` (P,) float32."""
        sequences = [sequence for element in elements for sequence in element.sequences]
        starts = np.cumsum([0, *(len(element.sequences) for element in elements)])
        rows = [
            (starts[number] + j.i, starts[number] + j.j, number, j.soft_label, j.margin or 0.0)
            for number, element in enumerate(elements)
            for j in element.judgements
        ]
        columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
        batch = layout_tensors(plan_layout(sequences, self.family, block_queries=self.block_queries))
        for name, column in zip(("first", "second", "element"), columns[:3], strict=True):
            batch[name] = torch.from_numpy(column.astype(np.int64))
        for name, column in zip(("preference", "margin"), columns[3:], strict=True):
            batch[name] = torch.from_numpy(column.astype(np.float32))
        return batch


def layout_tensors(layout: Layout) -> dict[str, torch.Tensor]:
    """The arrays of a layout as tensors, by graph input name."""
    return {name: torch.from_numpy(array) for name, array in layout.arrays().items()}
