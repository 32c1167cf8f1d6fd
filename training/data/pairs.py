"""Judgements as flat pairs of texts, for counting and for baselines."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from training.data.record import Judgement, PreferenceRecord


@dataclass(frozen=True)
class Pair:
    """One judgement of one record, and the two texts it compares."""

    record: PreferenceRecord
    judgement: Judgement
    text_i: str
    text_j: str

    @property
    def direction(self) -> int:
        """1 where `i` has more votes than `j`, -1 where it has fewer, 0 where neither won."""
        return (self.judgement.i_wins > self.judgement.j_wins) - (self.judgement.i_wins < self.judgement.j_wins)

    @property
    def in_order(self) -> bool:
        """Whether `key` has the texts in the order of the judgement."""
        return self.text_i <= self.text_j

    @property
    def key(self) -> Hashable:
        """The prompt with the two texts, whichever comes first: equal for judgements of one pair."""
        first, second = sorted((self.text_i, self.text_j))
        return self.record.prompt_key, first, second


def pairs_of(records: Iterable[PreferenceRecord]) -> Iterator[Pair]:
    """Every judgement of every record, in order."""
    for record in records:
        for judgement in record.judgements:
            yield Pair(record, judgement, record.responses[judgement.i], record.responses[judgement.j])


def decided(records: Iterable[PreferenceRecord]) -> list[Pair]:
    """The pairs that one side won; a tied vote has no right answer to be accurate about."""
    return [pair for pair in pairs_of(records) if pair.direction]
