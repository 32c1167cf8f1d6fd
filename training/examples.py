"""Preference records as token sequences, batches of them as tensors over a layout."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from service.bundle.layout import Family, IntArray, Layout, plan_layout
from service.bundle.text_format import EncodedItem, Formatter, Truncation
from training.data.record import Judgement, PreferenceRecord

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
    """Elements of at most `max_responses` responses.

    A prompt with more is cut into groups of compared responses, drawn anew each epoch, so that
    more of its pairs are seen with every epoch while every response is computed once in each.

    Args:
        examples: what to learn from.
        max_responses: the most responses of one element, >= 2.
        seed: of the grouping.
    """

    def __init__(self, examples: Sequence[Example], max_responses: int, seed: int) -> None:
        self._examples = examples
        self._max_responses = max_responses
        self._seed = seed
        self._slots = [
            (number, part)
            for number, example in enumerate(examples)
            for part in range(-(-len(example.items) // max_responses))
        ]
        self._groups: dict[int, list[list[int]]] = {}
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw new groups; the training loop calls this at the start of each epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._groups.clear()

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: int) -> Element:
        number, part = self._slots[slot]
        example = self._examples[number]
        if number not in self._groups:
            generator = random.Random(f"{self._seed}:{self._epoch}:{example.record.id}")
            self._groups[number] = compared_groups(
                len(example.items), example.record.judgements, self._max_responses, generator
            )
        return _element(example, self._groups[number][part])


def compared_groups(
    responses: int, judgements: Sequence[Judgement], size: int, generator: random.Random
) -> list[list[int]]:
    """Partition response indices into ceil(responses / size) groups of near-equal size, compared responses together.

    A group grows from a random response along random judgements, so that sparse comparisons are not torn apart.
    """
    neighbours: dict[int, set[int]] = defaultdict(set)
    for judgement in judgements:
        neighbours[judgement.i].add(judgement.j)
        neighbours[judgement.j].add(judgement.i)
    count = -(-responses // size)
    left = list(range(responses))
    generator.shuffle(left)
    groups: list[list[int]] = []
    for number in range(count):
        target = -(-len(left) // (count - number))
        group: list[int] = []
        while len(group) < target:
            reachable = [index for index in left if any(index in neighbours[member] for member in group)]
            chosen = reachable[0] if reachable else left[0]
            left.remove(chosen)
            group.append(chosen)
        groups.append(group)
    return groups


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
