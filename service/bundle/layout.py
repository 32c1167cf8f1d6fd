"""Layout version 2: token sequences in, the arrays of the scoring graph out.

A batch is a forest of prefix trees written flat, each distinct token once, in depth-first order.
Sorting the sequences gives that order: a sequence adds the tokens after its longest common prefix
with the sequence before it. In that order the descendants of a token are the flat tokens behind it up
to the end of its subtree, so that two numbers say who sees a token: `seen_from` and `seen_to`.

Attention runs in blocks of at most Q consecutive flat tokens, whatever sequences they belong to; the keys of a
block are the ancestors of its first query and the block itself. A bidirectional model shares nothing but whole
sequences, and the keys of a block are the sequences that its queries come from. Blocks of few keys and blocks of
many are kept in separate groups, each padded to its own size.

Pure numpy: training, the export's parity gate and the server all plan with this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LAYOUT_VERSION: Final = 2
DEFAULT_BLOCK_QUERIES = 128
BLOCK_GROUPS: Final = 2
"""Groups of blocks in the graph."""


class Family(StrEnum):
    """How tokens see each other."""

    CAUSAL = "causal"
    BIDIRECTIONAL = "bidirectional"


class Pooling(StrEnum):
    """Which hidden state a score is computed from."""

    LAST = "last"  # the last token of the sequence; the only choice of a causal model
    FIRST = "first"  # the first token ([CLS])
    MEAN = "mean"  # the mean over the tokens of the sequence


@dataclass(frozen=True)
class BlockGroup:
    """B blocks of Q queries and K keys. A group that no token needs is one block of one query and one key.

    Attributes:
        query_index: (B, Q) int64, flat index of each query; padding is 0.
        key_index: (B, K) int64, flat index of each key, ascending; padding is 0.
        key_valid: (B, K) bool, false where a key is padding.
    """

    query_index: IntArray
    key_index: IntArray
    key_valid: BoolArray

    @property
    def cells(self) -> int:
        """B * Q * K, the pairs of query and key that attention computes, padding included."""
        return int(self.query_index.size * self.key_index.shape[1])


@dataclass(frozen=True)
class Layout:
    """The arrays of one batch: T flat tokens in `BLOCK_GROUPS` groups of blocks, N scores.

    Attributes:
        input_ids: (T,) int64, the distinct tokens.
        position_ids: (T,) int64, depth of each token in its tree, from 0.
        seen_from, seen_to: (T,) int64, a token is seen by the flat tokens from `seen_from` up to, without, `seen_to`.
        unblock_index: (T,) int64, row of each flat token in the block results, all groups one after the other.
        read_index: (N,) int64, flat token at which the score of each sequence is read, in the caller's order.
        groups: the blocks.
        filler: flat tokens at the end that belong to no sequence and that no token sees (`service.engine.shapes`).
    """

    input_ids: IntArray
    position_ids: IntArray
    seen_from: IntArray
    seen_to: IntArray
    unblock_index: IntArray
    read_index: IntArray
    groups: tuple[BlockGroup, ...]
    filler: int = 0

    def arrays(self) -> dict[str, IntArray | BoolArray]:
        """The arrays by graph input name, ready to feed."""
        arrays: dict[str, IntArray | BoolArray] = {name: getattr(self, name) for name in FLAT_INPUTS}
        for number, group in enumerate(self.groups):
            arrays.update({f"{name}_{number}": getattr(group, name) for name in BLOCK_INPUTS})
        return arrays

    @property
    def tokens(self) -> int:
        """T, the distinct tokens of the sequences."""
        return len(self.input_ids) - self.filler

    @property
    def query_slots(self) -> int:
        """Queries that attention computes, padding included."""
        return sum(group.query_index.size for group in self.groups)

    @property
    def padded_tokens(self) -> int:
        """Queries or flat tokens, whichever are more, that are computed for no token."""
        return max(self.query_slots, len(self.input_ids)) - self.tokens

    @property
    def cells(self) -> int:
        """Pairs of query and key that attention computes, padding included."""
        return sum(group.cells for group in self.groups)

    @cached_property
    def padded_cells(self) -> int:
        """Those of `cells` whose query or key is padding."""
        filled = np.bincount(self._block_of_token(), minlength=sum(len(group.query_index) for group in self.groups))
        keys = np.concatenate([group.key_valid.sum(1) for group in self.groups])
        return self.cells - int(filled @ keys)

    def _block_of_token(self) -> IntArray:
        """(T,) which block each token is a query of, all groups counted through."""
        first_row = np.concatenate([np.full(len(g.query_index), g.query_index.shape[1]) for g in self.groups])
        rows = self.unblock_index[: self.tokens]
        return np.searchsorted(np.cumsum(first_row), rows, side="right").astype(np.int64)


FLAT_INPUTS: Final = ("input_ids", "position_ids", "seen_from", "seen_to", "unblock_index", "read_index")
BLOCK_INPUTS: Final = ("query_index", "key_index", "key_valid")
GRAPH_INPUTS: Final = FLAT_INPUTS + tuple(f"{name}_{group}" for group in range(BLOCK_GROUPS) for name in BLOCK_INPUTS)
GRAPH_OUTPUT = "rewards"


@dataclass(frozen=True)
class _Run:
    """The tokens that one sequence adds: those of its path from `depth` on."""

    sequence: IntArray
    depth: int
    path: IntArray  # (len(sequence),) flat index of every token from the root
    start: int  # flat index of the first token that it adds


def common_prefix(a: IntArray, b: IntArray) -> int:
    """Length of the longest common prefix of two token sequences."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


def depth_first_order(sequences: Sequence[IntArray]) -> list[int]:
    """Indices of the sequences in the order in which their trees are written: lexicographic by token id."""
    # Big-endian bytes compare like the integers they hold, so one bytes comparison sorts whole sequences.
    keys = [sequence.astype(">u4").tobytes() for sequence in sequences]
    return sorted(range(len(sequences)), key=keys.__getitem__)


def added_tokens(sequences: Sequence[IntArray], order: Sequence[int]) -> list[int]:
    """Tokens that each sequence of `order` adds to those before it; their sum is the size of the forest."""
    added = []
    for place, index in enumerate(order):
        shared = common_prefix(sequences[order[place - 1]], sequences[index]) if place else 0
        added.append(len(sequences[index]) - shared)
    return added


def plan_layout(
    sequences: Sequence[IntArray],
    family: Family,
    *,
    block_queries: int = DEFAULT_BLOCK_QUERIES,
    share_prefixes: bool = True,
) -> Layout:
    """Plan one batch.

    Args:
        sequences: N token sequences, each (L_n,) int64 with L_n >= 1.
        family: causal models share prefixes of any depth; bidirectional ones share identical sequences only.
        block_queries: Q, the most queries in a block.
        share_prefixes: false writes every sequence out in full (for measuring what sharing gains).

    Raises:
        ValueError: no sequence, an empty sequence, or a block size below 1.
    """
    if not sequences or any(len(sequence) == 0 for sequence in sequences):
        raise ValueError("a layout needs at least one sequence, and every sequence at least one token")
    if block_queries < 1:
        raise ValueError(f"block_queries must be at least 1, not {block_queries}")
    causal = family is Family.CAUSAL
    order = depth_first_order(sequences) if share_prefixes else list(range(len(sequences)))
    runs: list[_Run] = []
    read_index = np.zeros(len(sequences), dtype=np.int64)
    size = 0
    for index in order:
        sequence = sequences[index]
        shared = _shared_tokens(runs[-1].sequence, sequence, causal) if runs and share_prefixes else 0
        # The sequence before may be a duplicate that added no run; the run before it is then its twin.
        if shared < len(sequence):
            new = np.arange(size, size + len(sequence) - shared, dtype=np.int64)
            path = np.concatenate([runs[-1].path[:shared], new]) if shared else new
            runs.append(_Run(sequence, shared, path, size))
            size += len(new)
        read_index[index] = runs[-1].path[len(sequence) - 1 if causal else 0]

    position_ids = np.concatenate([np.arange(run.depth, len(run.path), dtype=np.int64) for run in runs])
    seen_from, seen_to = _seen(runs, size, causal)
    cut = _causal_blocks if causal else _bidirectional_blocks
    groups, unblock_index = _group(cut(runs, position_ids, block_queries), size)
    return Layout(
        input_ids=np.concatenate([run.sequence[run.depth :] for run in runs]),
        position_ids=position_ids,
        seen_from=seen_from,
        seen_to=seen_to,
        unblock_index=unblock_index,
        read_index=read_index,
        groups=groups,
    )


def _shared_tokens(previous: IntArray, sequence: IntArray, causal: bool) -> int:
    """Tokens of `sequence` that are already written: any prefix if causal, else all or nothing."""
    shared = common_prefix(previous, sequence)
    whole = shared == len(sequence) == len(previous)
    return shared if causal or whole else 0


def _seen(runs: Sequence[_Run], size: int, causal: bool) -> tuple[IntArray, IntArray]:
    """`seen_from` and `seen_to` of a forest of `size` tokens."""
    seen_from, seen_to = np.arange(size, dtype=np.int64), np.full(size, size, dtype=np.int64)
    for number, run in enumerate(runs):
        stop = runs[number + 1].start if number + 1 < len(runs) else size
        if not causal:
            seen_from[run.start : stop], seen_to[run.start : stop] = run.start, stop
        elif number + 1 < len(runs):  # where the next run branches off, the subtrees below end
            seen_to[run.path[runs[number + 1].depth :]] = stop
    return seen_from, seen_to


_Block = tuple[int, int, IntArray]
"""First flat token, end, and keys."""


def _causal_blocks(runs: Sequence[_Run], position_ids: IntArray, block_queries: int) -> list[_Block]:
    """Equal cuts of the flat tokens; what lies before a cut and is seen behind it are the ancestors of the cut."""
    size = len(position_ids)
    bounds = _even_cuts(0, size, block_queries)
    at = np.searchsorted([run.start for run in runs], bounds[:-1], side="right") - 1
    return [
        (start, stop, np.concatenate([runs[run].path[: position_ids[start]], np.arange(start, stop, dtype=np.int64)]))
        for start, stop, run in zip(bounds[:-1], bounds[1:], at, strict=True)
    ]


def _bidirectional_blocks(runs: Sequence[_Run], position_ids: IntArray, block_queries: int) -> list[_Block]:
    """Equal cuts of each long sequence; several short ones together."""
    bounds = [run.start for run in runs] + [len(position_ids)]
    blocks: list[_Block] = []
    first = 0
    while first < len(runs):
        last = first + 1
        while last < len(runs) and bounds[last + 1] - bounds[first] <= block_queries:
            last += 1
        keys = np.arange(bounds[first], bounds[last], dtype=np.int64)
        cuts = _even_cuts(bounds[first], bounds[last], block_queries)
        blocks += [(start, stop, keys) for start, stop in pairwise(cuts)]
        first = last
    return blocks


def _even_cuts(start: int, stop: int, most: int) -> list[int]:
    """Bounds of the fewest spans of at most `most` that cover start..stop, as equal as can be."""
    count = -(-(stop - start) // most)
    return [start + (stop - start) * number // count for number in range(count + 1)]


def _group(blocks: Sequence[_Block], size: int) -> tuple[tuple[BlockGroup, ...], IntArray]:
    """Pad the blocks in groups, and say where each flat token's result lies."""
    unblock_index = np.zeros(size, dtype=np.int64)
    groups, rows = [], 0
    for members in _few_and_many(blocks):
        queries = max((stop - start for start, stop, _ in members), default=1)
        keys = max((len(block_keys) for _, _, block_keys in members), default=1)
        query_index = np.zeros((max(1, len(members)), queries), dtype=np.int64)
        key_index = np.zeros((len(query_index), keys), dtype=np.int64)
        key_valid = np.zeros(key_index.shape, dtype=np.bool_)
        key_valid[:, 0] = True  # also of the group that nobody needs: a softmax over nothing is NaN
        for row, (start, stop, block_keys) in enumerate(members):
            query_index[row, : stop - start] = np.arange(start, stop)
            key_index[row, : len(block_keys)] = block_keys
            key_valid[row, : len(block_keys)] = True
            unblock_index[start:stop] = np.arange(stop - start) + rows + row * queries
        groups.append(BlockGroup(query_index, key_index, key_valid))
        rows += query_index.size
    return tuple(groups), unblock_index


def _few_and_many(blocks: Sequence[_Block]) -> tuple[Sequence[_Block], Sequence[_Block]]:
    """Part the blocks by their number of keys, so that padding all to the most of their part costs least."""
    ordered = sorted(blocks, key=lambda block: len(block[2]))
    keys = np.array([len(block[2]) for block in ordered])
    few = np.arange(len(ordered))  # how many blocks go to the first group
    cost = few * keys[few - 1] + (len(ordered) - few) * keys[-1]
    split = int(cost.argmin())
    return ordered[:split], ordered[split:]
