"""Layout version 1: token sequences in, the arrays of the scoring graph out.

A batch is a forest of prefix trees written flat, each distinct token once, in depth-first order.
Sorting the sequences gives that order: a sequence adds the tokens after its longest common prefix
with the sequence before it. Attention runs in blocks of at most Q queries; the queries of a block are
consecutive flat tokens of one sequence, its keys the path from the root to its last query. A
bidirectional model shares nothing but whole sequences, and the keys of a block are its whole sequence.

Pure numpy: training, the export's parity gate and the server all plan with this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LAYOUT_VERSION: Final = 1
DEFAULT_BLOCK_QUERIES = 64


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
class Layout:
    """The arrays of one batch: T flat tokens, B blocks of Q queries and K keys, N scores.

    Attributes:
        input_ids: (T,) int64, the distinct tokens.
        position_ids: (T,) int64, depth of each token in its tree, from 0.
        query_index: (B, Q) int64, flat index of each query; padding is 0.
        key_index: (B, K) int64, flat index of each key; padding is 0.
        key_valid: (B, K) bool, false where a key is padding.
        unblock_index: (T,) int64, row of each flat token in the (B*Q) block results.
        read_index: (N,) int64, flat token at which the score of each sequence is read, in the caller's order.
    """

    input_ids: IntArray
    position_ids: IntArray
    query_index: IntArray
    key_index: IntArray
    key_valid: BoolArray
    unblock_index: IntArray
    read_index: IntArray

    def arrays(self) -> dict[str, npt.NDArray[np.int64] | npt.NDArray[np.bool_]]:
        """The arrays by graph input name, ready to feed."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def tokens(self) -> int:
        """T, the tokens really computed."""
        return len(self.input_ids)


GRAPH_INPUTS: tuple[str, ...] = tuple(field.name for field in fields(Layout))
GRAPH_OUTPUT = "rewards"


@dataclass(frozen=True)
class _Run:
    """The tokens that one sequence adds: those of its path from `depth` on."""

    sequence: IntArray
    depth: int
    path: IntArray  # (len(sequence),) flat index of every token from the root


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
            runs.append(_Run(sequence, shared, path))
            size += len(new)
        read_index[index] = runs[-1].path[len(sequence) - 1 if causal else 0]

    return Layout(
        input_ids=np.concatenate([run.sequence[run.depth :] for run in runs]),
        position_ids=np.concatenate([np.arange(run.depth, len(run.path), dtype=np.int64) for run in runs]),
        **_blocks(runs, size, block_queries, causal),
        read_index=read_index,
    )


def _shared_tokens(previous: IntArray, sequence: IntArray, causal: bool) -> int:
    """Tokens of `sequence` that are already written: any prefix if causal, else all or nothing."""
    shared = common_prefix(previous, sequence)
    whole = shared == len(sequence) == len(previous)
    return shared if causal or whole else 0


def _blocks(runs: Sequence[_Run], size: int, block_queries: int, causal: bool) -> dict[str, npt.NDArray[Any]]:
    """Cut the runs into blocks; `size` is T. Returns the four block arrays by name."""
    spans = [
        (run, start, min(start + block_queries, len(run.path)))
        for run in runs
        for start in range(run.depth, len(run.path), block_queries)
    ]
    keys = [run.path[:stop] if causal else run.path for run, _, stop in spans]
    query_index = np.zeros((len(spans), block_queries), dtype=np.int64)
    key_index = np.zeros((len(spans), max(map(len, keys))), dtype=np.int64)
    key_valid = np.zeros(key_index.shape, dtype=np.bool_)
    unblock_index = np.zeros(size, dtype=np.int64)
    for block, ((run, start, stop), block_keys) in enumerate(zip(spans, keys, strict=True)):
        queries = run.path[start:stop]
        query_index[block, : len(queries)] = queries
        key_index[block, : len(block_keys)] = block_keys
        key_valid[block, : len(block_keys)] = True
        unblock_index[queries] = block * block_queries + np.arange(len(queries))
    return {
        "query_index": query_index,
        "key_index": key_index,
        "key_valid": key_valid,
        "unblock_index": unblock_index,
    }
