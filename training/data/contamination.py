"""Training records that hold passages of an evaluation."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from training.data.errors import DataError
from training.data.readers.rows import raw_rows
from training.data.record import PreferenceRecord

PASSAGE_WORDS = 13
"""Words in a row that do not come together twice by chance (Brown et al. 2020, appendix C)."""
SHORT_WORDS = 6
"""A shorter text says nothing by being in both: many answers are "Yes, of course"."""

# Chinese, Japanese and Korean are written without spaces, or with few: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_TURN = re.compile(r"\n\n(?:Human|Assistant): ?")


@dataclass(frozen=True)
class Passages:
    """Hashes of what an evaluation holds: every 13 words in a row, and each text of 6 to 12 words as a whole."""

    hashes: frozenset[int]

    def hold(self, text: str) -> bool:
        """Whether a text has one of them; case, punctuation and white space are ignored."""
        return not self.hashes.isdisjoint(_passages(text))

    def shared_by(self, record: PreferenceRecord) -> bool:
        """Whether a message of the prompt or a response has one of them."""
        texts = (*(turn.content for turn in record.messages), *record.responses)
        return any(self.hold(text) for text in texts)


def read_passages(sources: Iterable[str]) -> Passages:
    """The passages of evaluation files, whatever their columns are called: every text in every row counts.

    Raises:
        DataError: a source that cannot be read, or a bad row.
    """
    hashes: set[int] = set()
    for source in sources:
        for row in raw_rows(source):
            if isinstance(row.columns, DataError):
                raise DataError(row.columns.reason, file=row.file, line=row.line)
            for text in _texts(row.columns):
                hashes.update(_passages(text))
    return Passages(frozenset(hashes))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if len(turns := _TURN.split(value)) > 1:  # a dialogue in one text
            yield from turns
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _passages(text: str) -> Iterator[int]:
    words = _WORD.findall(text.casefold())
    if SHORT_WORDS <= len(words) < PASSAGE_WORDS:
        yield hash(tuple(words))
    for start in range(len(words) - PASSAGE_WORDS + 1):
        yield hash(tuple(words[start : start + PASSAGE_WORDS]))
