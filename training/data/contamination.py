"""Training records that hold passages of an evaluation."""

import hashlib
import re
import unicodedata
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
_CHARACTERS_A_WORD = 2

# Chinese, Japanese and Korean are written without spaces, or with few: their words are counted in characters.
_CHARACTER = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W_{_CHARACTER}]+")
_OF_CHARACTERS = re.compile(f"[{_CHARACTER}]")
_TURN = re.compile(r"\n\n(?:Human|Assistant): ?")


@dataclass(frozen=True)
class Passages:
    """Hashes of what an evaluation holds: every 13 words in a row, and each text of 6 to 12 words as a whole.

    Of texts in Chinese, Japanese or Korean, twice as many characters. `sha256` is of all the texts, in order.
    """

    hashes: frozenset[int]
    sha256: str

    def hold(self, text: str) -> bool:
        """Whether a text has one of them; case, punctuation, white space and forms of Unicode are ignored."""
        return not self.hashes.isdisjoint(_passages(text))

    def shared_by(self, record: PreferenceRecord) -> bool:
        """Whether a turn of the prompt or a response has one of them; a system prompt is a whole data set's."""
        turns = (turn.content for turn in record.messages if turn.role != "system")
        return any(self.hold(text) for text in (*turns, *record.responses))


def read_passages(sources: Iterable[str]) -> Passages:
    """The passages of evaluation files, whatever their columns are called: every text in every row counts.

    Raises:
        DataError: a source that cannot be read, or a bad row.
    """
    hashes: set[int] = set()
    digest = hashlib.sha256()
    for source in sources:
        for row in raw_rows(source):
            if isinstance(row.columns, DataError):
                raise DataError(row.columns.reason, file=row.file, line=row.line)
            for text in _texts(row.columns):
                hashes.update(_passages(text))
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return Passages(frozenset(hashes), digest.hexdigest())


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
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    characters = sum(_OF_CHARACTERS.match(word) is not None for word in words)
    scripts = {1} if characters < len(words) else set()
    if characters:
        scripts.add(_CHARACTERS_A_WORD)  # of a text in both, passages of either length
    for times in sorted(scripts):
        least, most = times * SHORT_WORDS, times * PASSAGE_WORDS
        if least <= len(words) < most and (times == _CHARACTERS_A_WORD) == (characters > len(words) / 2):
            yield hash(tuple(words))
        for start in range(len(words) - most + 1):
            yield hash(tuple(words[start : start + most]))
