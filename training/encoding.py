"""Preference records as token sequences."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from service.bundle.layout import IntArray
from service.bundle.text_format import EncodedItem, FormatError, Formatter, Truncation
from training.data.lazy_sequence import LazySequence
from training.data.record import PreferenceRecord

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


class ExampleStore(LazySequence[Example]):
    """Examples that are read when they are asked for, and their records without the tokens."""

    @property
    @abstractmethod
    def records(self) -> Sequence[PreferenceRecord]:
        """Of all examples."""


def records_of(examples: Sequence[Example]) -> Sequence[PreferenceRecord]:
    """The records of some examples."""
    return examples.records if isinstance(examples, ExampleStore) else [example.record for example in examples]


def encode_records(records: Sequence[PreferenceRecord], formatter: Formatter, progress: bool = True) -> list[Example]:
    """Tokenize records; over-long items are cut from the prompt's left, then from the response's right.

    Raises:
        ValueError: an item that no cut makes fit, named by record and response.
        FormatError: the chat template refuses a prompt.
    """
    examples = []
    for record in tqdm(records, "tokenizing", unit=" records", disable=not progress, leave=False):
        try:
            items = formatter.encode(record.prompt, record.responses, TRAINING_TRUNCATION)
        except FormatError as error:
            raise FormatError(f"record {record.id!r}: {error}") from error
        for number, item in enumerate(items):
            if not isinstance(item, EncodedItem):
                raise ValueError(f"record {record.id!r}, response {number}: {item}")
        examples.append(Example(record, tuple(item for item in items if isinstance(item, EncodedItem))))
    return examples


def truncated(examples: Sequence[Example]) -> int:
    """Items that were cut to fit."""
    return sum(item.removed > 0 for example in examples for item in example.items)


def cut_alike(examples: Sequence[Example]) -> tuple[int, int]:
    """How many judgements there are, and on how many of them both responses were cut to the same tokens."""
    judged = alike = 0
    for example in examples:
        for judgement in example.record.judgements:
            first, second = example.items[judgement.i], example.items[judgement.j]
            judged += 1
            alike += bool(first.removed or second.removed) and np.array_equal(first.ids, second.ids)
    return judged, alike
