"""A set of token sequences in depth-first order, which always knows how large its forest of prefix trees is."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from service.bundle.layout import Family, IntArray, common_prefix


def token_key(sequence: IntArray) -> bytes:
    """The identity of a token sequence; keys sort as the sequences do, token by token."""
    return sequence.astype(">u4").tobytes()


def _mark(key: bytes, sequence: IntArray) -> bytes:
    """What a key has before its tokens (see `Sequences.of_one_request`)."""
    return key[: len(key) - 4 * len(sequence)]


class Place(NamedTuple):
    """Where a sequence would stand in the order, and what it would add.

    Attributes:
        at: index.
        before, after: tokens that it shares with the one before it and the one after it.
        tokens: tokens that the forest would grow by.
    """

    at: int
    before: int
    after: int
    tokens: int


class PrefixIndex:
    """Sequences under distinct keys, sorted; each remembers how many tokens it shares with the one before it.

    A key is its sequence's `token_key`, or that behind a mark: sequences of different marks share nothing.
    A causal model computes of each only the tokens after those, as `service.bundle.layout` writes them; a
    bidirectional one shares nothing but whole sequences, which are one here anyway.

    Args:
        family: of the model.

    Attributes:
        tokens: size of the forest.
        length_tokens: of each sequence, the tokens that it adds times its own length, summed.
    """

    def __init__(self, family: Family) -> None:
        self.tokens = self.length_tokens = 0
        self._shares = family is Family.CAUSAL
        self._keys: list[bytes] = []
        self._sequences: list[IntArray] = []
        self._shared: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def look(self, key: bytes, sequence: IntArray) -> Place:
        """What adding a sequence that is not in the index would change."""
        at = bisect_left(self._keys, key)
        before = after = follows = 0
        if self._shares:
            mark = _mark(key, sequence)
            if at and _mark(self._keys[at - 1], self._sequences[at - 1]) == mark:
                before = common_prefix(self._sequences[at - 1], sequence)
            if at < len(self._keys) and _mark(self._keys[at], self._sequences[at]) == mark:
                follows = self._shared[at]
                # What its neighbours share with each other, it shares with both; if with one more, then not with both.
                after = follows if before > follows else common_prefix(sequence, self._sequences[at])
        return Place(at, before, after, len(sequence) - before - (after - follows))

    def add(self, key: bytes, sequence: IntArray, place: Place | None = None) -> Place:
        """Add a sequence that is not in the index.

        Args:
            place: what `look` just said of it.
        """
        place = place or self.look(key, sequence)
        at = place.at
        if at < len(self._keys):
            self._recount(at, place.after)
        self._keys.insert(at, key)
        self._sequences.insert(at, sequence)
        self._shared.insert(at, place.before)
        self._count(at, 1)
        return place

    def remove(self, key: bytes) -> None:
        """Take a sequence out that is in the index."""
        at = bisect_left(self._keys, key)
        assert self._keys[at] == key
        self._count(at, -1)
        shared = self._shared[at]
        del self._keys[at], self._sequences[at], self._shared[at]
        if at < len(self._keys):
            self._recount(at, min(shared, self._shared[at]))

    def siblings(self, key: bytes) -> Iterator[bytes]:
        """Those that share with a member at least half of what they are; those that share the most first.

        The walk on each side ends at the first that shares less.
        """
        at = bisect_left(self._keys, key)
        length = len(self._sequences[at])
        left, right = at - 1, at + 1
        with_left, with_right = self._shared_before(at, length), self._shared_before(right, length)
        while True:
            go_left = left >= 0 and 2 * with_left >= len(self._sequences[left]) and with_left > 0
            go_right = right < len(self._keys) and 2 * with_right >= len(self._sequences[right]) and with_right > 0
            if go_left and (with_left >= with_right or not go_right):
                yield self._keys[left]
                with_left = self._shared_before(left, with_left)
                left -= 1
            elif go_right:
                yield self._keys[right]
                right += 1
                with_right = self._shared_before(right, with_right)
            else:
                return

    def _shared_before(self, at: int, most: int) -> int:
        return min(most, self._shared[at]) if at < len(self._shared) else 0

    def _recount(self, at: int, shared: int) -> None:
        """The sequence at a place now shares so many tokens with the one before it."""
        if shared != self._shared[at]:
            self._count(at, -1)
            self._shared[at] = shared
            self._count(at, 1)

    def _count(self, at: int, sign: int) -> None:
        length = len(self._sequences[at])
        added = sign * (length - self._shared[at])
        self.tokens += added
        self.length_tokens += added * length


@dataclass(frozen=True)
class Sequences:
    """The token sequences of one request, ready for the queue.

    Attributes:
        keys: of every sequence, in the caller's order.
        distinct: each distinct sequence by its key, in depth-first order. Equal ones are one: rounding depends on the
            place in a batch, and equal texts must tie.
        tokens: size of their forest.
        input_tokens: sum of their lengths, duplicates included.
    """

    keys: list[bytes]
    distinct: dict[bytes, IntArray]
    tokens: int
    input_tokens: int

    @classmethod
    def of(cls, sequences: Sequence[IntArray], family: Family) -> "Sequences":
        """Prepare the sequences of a request, each (L,) int64 with L >= 1."""
        keys = [token_key(sequence) for sequence in sequences]
        by_key = dict(zip(keys, sequences, strict=True))
        distinct = {key: by_key[key] for key in sorted(by_key)}
        return cls(keys, distinct, forest_tokens(distinct.values(), family), sum(map(len, sequences)))

    def of_one_request(self, number: int) -> "Sequences":
        """The same under keys that no other request has, in the same order, so that nobody else's items are equal."""
        mark = number.to_bytes(8, "big")
        distinct = {mark + key: sequence for key, sequence in self.distinct.items()}
        return replace(self, keys=[mark + key for key in self.keys], distinct=distinct)


def forest_tokens(ordered: Iterable[IntArray], family: Family) -> int:
    """Size of the forest of distinct sequences that come in depth-first order."""
    tokens, previous = 0, None
    for sequence in ordered:
        shared = common_prefix(previous, sequence) if previous is not None and family is Family.CAUSAL else 0
        tokens += len(sequence) - shared
        previous = sequence
    return tokens
