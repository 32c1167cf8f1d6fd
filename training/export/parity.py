"""The parity gate: the exported graph must give the scores of the trained module, whatever the shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from service.bundle.layout import DEFAULT_BLOCK_QUERIES, Family, IntArray, plan_layout
from training.evaluation.metrics import spearman
from training.examples import layout_tensors
from training.model import RewardModel

GraphRun = Callable[[Mapping[str, npt.NDArray[Any]]], npt.NDArray[np.float32]]
"""Runs the exported graph: layout arrays by name -> rewards (N, heads)."""

LONGEST_OF_MANY = 2048
"""The most tokens of an item that is checked in company."""

TOLERANCE = {"fp32": 1e-4}
"""Largest allowed |graph - module| for each precision, on scores of a spread up to 1."""


LEAST_SPEARMAN = 0.999
"""Least rank correlation of graph and module over all cases."""


class ParityError(ValueError):
    """The graph does not compute what was trained; no bundle is written."""


@dataclass(frozen=True)
class Parity:
    """Figures of the gate over all cases.

    Attributes:
        cases, scores: how many batches and scores were compared.
        max_error, mean_error: |graph - module|, both over one layout.
        max_company_error: |graph in a batch - module alone|: what sharing and company change.
        spearman: rank correlation of graph and module; none where all scores are equal.
        pairs, flips: pairs of scores of a batch that differ by more than the tolerance, and those ordered otherwise.
        tolerance: what `max_error` and `max_company_error` must not exceed.
        by_case: largest error of each case.
    """

    cases: int
    scores: int
    max_error: float
    mean_error: float
    max_company_error: float
    spearman: float | None
    pairs: int
    flips: int
    tolerance: float
    by_case: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @property
    def failure(self) -> str | None:
        """Why the gate is shut, or None."""
        for case, error in self.by_case.items():
            if not error <= self.tolerance:  # true of NaN as well
                return f"the error {error:.2e} in the case {case!r} is above {self.tolerance:.0e}"
        if self.flips:
            return f"{self.flips} of {self.pairs} pairs are ordered differently"
        if not self.pairs:
            return f"no two scores differ by more than {self.tolerance:.0e}: an order cannot be proved"
        if self.spearman is None or self.spearman < LEAST_SPEARMAN:
            return f"the rank correlation is {self.spearman}, below {LEAST_SPEARMAN}"
        return None


def parity_cases(
    vocabulary: int, max_tokens: int, seed: int, block_queries: int = DEFAULT_BLOCK_QUERIES
) -> dict[str, list[IntArray]]:
    """Fresh token sequences of many shapes: one token, full length, one item, many items, deep and wide trees.

    Only one item, by itself, has all of `max_tokens`: trees are of items up to `LONGEST_OF_MANY`, to stay affordable.
    """
    generator = np.random.default_rng(seed)

    def fresh(length: int) -> IntArray:
        return generator.integers(0, vocabulary, max(1, min(length, max_tokens)), dtype=np.int64)

    def extend(stem: IntArray, length: int) -> IntArray:
        return np.concatenate([stem, fresh(length)])[:max_tokens]

    long = min(max_tokens, LONGEST_OF_MANY)
    prompt, system = fresh(long // 2), fresh(long // 8)
    edges = [edge + beside for edge in (block_queries, 2 * block_queries) for beside in (-1, 0, 1)]
    deep = [fresh(3)]
    for _ in range(12):
        deep.append(extend(deep[-1], 1 + int(generator.integers(0, 9))))
    turns = [extend(system, 20) for _ in range(3)]
    return {
        "one token": [fresh(1)],
        "two single tokens": [fresh(1), fresh(1)],
        "one item": [fresh(37)],
        "full length": [fresh(max_tokens)],
        "long beside one token": [fresh(long), fresh(1)],
        "block edges": [fresh(length) for length in edges],
        "many short items": [fresh(int(length)) for length in generator.integers(1, 24, 64)],
        "mixed lengths": [fresh(int(length)) for length in generator.integers(1, max(2, long // 2), 8)],
        "wide tree": [extend(prompt, int(length)) for length in generator.integers(1, max(2, long // 8), 16)],
        "deep tree": deep,
        "branching turns": [extend(turn, int(length)) for turn in turns for length in (1, 9, 30)],
        "duplicates": [prompt, prompt.copy(), prompt[: len(prompt) // 2 + 1]],
    }


def measure_parity(
    model: RewardModel,
    run: GraphRun,
    cases: Mapping[str, Sequence[IntArray]],
    block_queries: int,
    precision: str,
    spread: float = 1.0,
) -> Parity:
    """Compare graph and module on every case, and both with the module scoring each item alone.

    Args:
        model: what was trained.
        run: the graph.
        cases: token sequences by what they try.
        block_queries: of the layout.
        precision: of the graph.
        spread: of the model's scores; one above 1 widens the tolerance, as rounding grows with the scores.
    """
    tolerance = TOLERANCE[precision] * max(1.0, spread)
    graph_scores, module_scores, by_case = [], [], {}
    company, pairs, flips = 0.0, 0, 0
    for name, sequences in cases.items():
        layout = plan_layout(sequences, model.family, block_queries=block_queries)
        graph = run(layout.arrays()).astype(np.float64)
        module = _module(model, sequences, block_queries)
        alone = (
            module
            if len(sequences) == 1
            else np.concatenate([_module(model, [sequence], block_queries) for sequence in sequences[:16]])
        )
        if graph.shape != module.shape:
            raise ParityError(f"the graph gives scores of shape {graph.shape}, the module of {module.shape}")
        case_company = np.abs(graph[:16] - alone).max()
        by_case[name] = float(np.maximum(np.abs(graph - module).max(), case_company))  # keeps NaN
        company = float(np.maximum(company, case_company))
        graph_scores.append(graph.ravel())
        module_scores.append(module.ravel())
        for a, b in combinations(range(len(sequences)), 2):
            difference = module[a, 0] - module[b, 0]
            if abs(difference) > tolerance:
                pairs += 1
                flips += bool(np.sign(difference) != np.sign(graph[a, 0] - graph[b, 0]))
    graph_all, module_all = np.concatenate(graph_scores), np.concatenate(module_scores)
    errors = np.abs(graph_all - module_all)
    return Parity(
        cases=len(cases),
        scores=len(graph_all),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        max_company_error=company,
        spearman=spearman(graph_all, module_all),
        pairs=pairs,
        flips=flips,
        tolerance=tolerance,
        by_case=by_case,
    )


def _module(model: RewardModel, sequences: Sequence[IntArray], block_queries: int) -> npt.NDArray[np.float64]:
    layout = plan_layout(sequences, Family(model.family), block_queries=block_queries)
    with torch.inference_mode():
        rewards: torch.Tensor = model(**layout_tensors(layout))
    return rewards.double().numpy()
