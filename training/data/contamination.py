"""Training records that hold passages of an evaluation."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from training.data.errors import DataError
from training.data.readers.rows import raw_rows
from training.data.record import PreferenceRecord

PASSAGE_WORDS = 13
"""Words in a row that do not come together twice by chance (Brown et al. 2020, appendix C)."""
SHORT_WORDS = 6
"""A shorter text says nothing by being in both: many answers are "Yes, of course". With its prompt, it does."""
MOST_SHORT = 12
"""Short texts of a row that are compared in pairs: columns and turns, not a list of thousands."""
_CHARACTERS_A_WORD = 2

# Chinese, Japanese and Korean are written without spaces, or with few: their words are counted in characters.
_CHARACTER = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W_{_CHARACTER}]+")
_OF_CHARACTERS = re.compile(f"[{_CHARACTER}]")
_TURN = re.compile(r"\n\n(?:Human|Assistant): ?")


@dataclass(frozen=True)
class Passages:
    """Hashes of what an evaluation holds: every 13 words in a row, and each text of 6 to 12 words as a whole.

    Of texts in Chinese, Japanese or Korean, twice as many characters. `pairs` are of any two texts of less than 13
    words in one row, the one before the other. `sha256` is of all the texts, in order.
    """

    hashes: frozenset[int]
    pairs: frozenset[int]
    sha256: str

    def hold(self, text: str) -> bool:
        """Whether a text has one of them; case, punctuation, white space and forms of Unicode are ignored."""
        return self._hold(_words(text))

    def _hold(self, words: Sequence[str]) -> bool:
        return not self.hashes.isdisjoint(_passages(words))

    def shared_by(self, record: PreferenceRecord) -> bool:
        """Whether a turn of the prompt or a response has one of them, or the last turn and a response are two of a row.

        A system prompt is a whole data set's.
        """
        turns = [_words(turn.content) for turn in record.messages if turn.role != "system"]
        responses = [_words(response) for response in record.responses]
        if any(self._hold(words) for words in (*turns, *responses)):
            return True
        if not turns or len(turns[-1]) >= PASSAGE_WORDS:
            return False
        return any(_pair(turns[-1], words) in self.pairs for words in responses if len(words) < PASSAGE_WORDS)


def read_passages(sources: Iterable[str]) -> Passages:
    """The passages of evaluation files, whatever their columns are called: every text in every row counts.

    Raises:
        DataError: a source that cannot be read, or a bad row.
    """
    hashes: set[int] = set()
    pairs: set[int] = set()
    digest = hashlib.sha256()
    for source in sources:
        for row in raw_rows(source):
            if isinstance(row.columns, DataError):
                raise DataError(row.columns.reason, file=row.file, line=row.line)
            short: list[list[str]] = []
            for text in _texts(row.columns):
                words = _words(text)
                hashes.update(_passages(words))
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
                if 0 < len(words) < PASSAGE_WORDS and len(short) < MOST_SHORT:
                    short.append(words)
            pairs.update(_pair(one, other) for one, other in permutations(short, 2))
    return Passages(frozenset(hashes), frozenset(pairs), digest.hexdigest())


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


def _words(text: str) -> list[str]:
    words: list[str] = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return words


def _pair(prompt: Sequence[str], response: Sequence[str]) -> int:
    return hash((tuple(prompt), tuple(response)))


def _passages(words: Sequence[str]) -> Iterator[int]:
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
