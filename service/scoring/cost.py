"""How long a batch takes, before it runs: three coefficients, measured and not assumed."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class CostModel:
    """Seconds of a batch: `fixed + per_token * tokens + per_cell * cells`.

    Everything but attention follows the tokens that are really computed. Attention follows its padded area, in cells:
    the query slots of all blocks times the keys that each has room for (see `Attention`).

    Attributes:
        fixed: seconds of any batch.
        per_token: seconds of one computed token.
        per_cell: seconds of one query slot looking at one key.
    """

    fixed: float
    per_token: float
    per_cell: float

    def __post_init__(self) -> None:
        coefficients = (self.fixed, self.per_token, self.per_cell)
        if not all(math.isfinite(value) and value >= 0 for value in coefficients) or not any(coefficients):
            raise ValueError(f"the coefficients of a cost model must be finite, none below 0, one above: {self}")

    def seconds(self, tokens: int, cells: int) -> float:
        """Predicted seconds of one batch."""
        return self.fixed + self.per_token * tokens + self.per_cell * cells

    def scaled(self, factor: float) -> Self:
        """The same proportions on a machine that takes `factor` times as long."""
        return type(self)(self.fixed * factor, self.per_token * factor, self.per_cell * factor)

    @classmethod
    def fit(cls, samples: Iterable[tuple[int, int, float]]) -> Self:
        """The non-negative coefficients with the least sum of squared relative errors.

        Relative, so that the small batches of interactive requests count as much as the large ones.

        Args:
            samples: (tokens, cells, measured seconds) of batches. Without at least three of different shape the
                coefficients that the samples do not tell apart are a choice among equals.

        Raises:
            ValueError: no samples, or one without positive, finite seconds.
        """
        measured = np.array(list(samples), dtype=np.float64).reshape(-1, 3)
        seconds = measured[:, 2]
        if not len(measured) or not (np.isfinite(measured).all() and (seconds > 0).all()):
            raise ValueError("a cost model needs samples, each with positive and finite seconds")
        rows = np.column_stack([np.ones(len(measured)), measured[:, 0], measured[:, 1]]) / seconds[:, None]
        scale = np.maximum(np.linalg.norm(rows, axis=0), np.finfo(np.float64).tiny)
        best, least = np.zeros(3), math.inf
        # The optimum is the plain least-squares solution over the columns that are not 0 in it: try all seven sets.
        for size in (1, 2, 3):
            for active in map(list, itertools.combinations(range(3), size)):
                solution = np.linalg.lstsq(rows[:, active] / scale[active], np.ones(len(rows)), rcond=None)[0]
                if (solution < 0).any():
                    continue
                error = float(np.square(rows[:, active] / scale[active] @ solution - 1).sum())
                if error < least * (1 - 1e-9):  # a set with more columns must earn them
                    best, least = np.zeros(3), error
                    best[active] = solution / scale[active]
        return cls(*best.tolist())


@dataclass(frozen=True)
class Attention:
    """How much room a batch's attention takes, told from its tokens and its longest item before it is planned.

    Blocks are cut from consecutive tokens, whatever items they belong to; the keys of a block are at most the longest
    path to it and the block itself. So this is what a planned layout stays below, by a quarter for items of one length;
    one in few shapes (`service.engine.shapes`) may exceed it by a tenth.

    Attributes:
        block_queries: Q, the most queries in a block.
    """

    block_queries: int

    def cells(self, tokens: int, longest: int) -> int:
        """Query slots times keys."""
        slots = -(-tokens // self.block_queries) * self.block_queries
        return slots * (longest + self.block_queries)


NEUTRAL = CostModel(fixed=1e-3, per_token=1e-4, per_cell=5e-8)
"""Before anything is measured: the proportions of a small decoder on a few cores. Real batches correct its scale."""
