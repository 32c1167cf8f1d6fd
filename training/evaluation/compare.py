"""Two models on the same pairs: a paired test, since what makes a pair hard is the same for both."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.evaluation import metrics
from training.evaluation.metrics import FloatArray, IntArray, Interval
from training.evaluation.pair_table import PairRow

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """Accuracy of two models on the pairs of one part.

    Attributes:
        name: of the part.
        pairs, prompts: decided pairs that both models scored, and the clusters they come in.
        accuracy_a, accuracy_b: of each.
        difference: b - a, with an interval bootstrapped over prompts.
        p_value: of no difference, two-sided: how often it is as large when the models change places prompt by prompt at
            random (a permutation test; prompts and not pairs, as the pairs of one prompt are not independent).
        both, only_a, only_b, neither: pairs by who is right; equal scores count half.
    """

    name: str
    pairs: int
    prompts: int
    accuracy_a: float
    accuracy_b: float
    difference: Interval
    p_value: float
    both: float
    only_a: float
    only_b: float
    neither: float


@dataclass(frozen=True)
class Comparison:
    """All pairs and those of each source, and what could not be compared.

    Attributes:
        every, by_source: accuracies; by source where there are several.
        log_loss_a, log_loss_b: at each model's temperature, in nats; ties count too.
        log_loss_difference, log_loss_p_value: as those of `Difference`.
        only_in_a, only_in_b: pairs that the other's test does not have.
    """

    every: Difference
    by_source: list[Difference]
    log_loss_a: float
    log_loss_b: float
    log_loss_difference: Interval
    log_loss_p_value: float
    only_in_a: int
    only_in_b: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare(
    rows_a: Sequence[PairRow], rows_b: Sequence[PairRow], temperature_a: float = 1.0, temperature_b: float = 1.0
) -> Comparison:
    """Compare two models by the pairs that both have scored, whichever side comes first.

    Raises:
        ValueError: no pair with a majority is in both, or their votes differ.
    """
    keyed_a, keyed_b = _keyed(rows_a), _keyed(rows_b)
    shared = [key for key in keyed_a if key in keyed_b]
    pairs = [(keyed_a[key], keyed_b[key]) for key in shared]
    for a, b in pairs:
        if not math.isclose(a.preference, b.preference, abs_tol=1e-9):
            raise ValueError(
                f"record {a.record!r}: the votes on a pair differ between the two tests ({a.preference:g} and "
                f"{b.preference:g} for the same side); evaluate both models on the same data"
            )
    decided = [(a, b) for a, b in pairs if a.preference != 0.5]
    if not decided:
        raise ValueError(
            f"the two tests ({len(rows_a)} and {len(rows_b)} pairs) have no pair with a majority in common; evaluate "
            "both models on the same test data"
        )
    sources = sorted({a.source for a, _ in decided})
    parts = {source: [pair for pair in decided if pair[0].source == source] for source in sources}
    preference = np.array([a.preference for a, _ in pairs])
    losses = [
        metrics.pair_losses(_margins(side) / temperature, preference)
        for side, temperature in zip(zip(*pairs, strict=True), (temperature_a, temperature_b), strict=True)
    ]
    cluster = _clusters([a for a, _ in pairs])
    return Comparison(
        every=_difference("all pairs", decided),
        by_source=[_difference(source, part) for source, part in parts.items()] if len(sources) > 1 else [],
        log_loss_a=float(losses[0].mean()),
        log_loss_b=float(losses[1].mean()),
        log_loss_difference=metrics.clustered_interval(losses[1] - losses[0], cluster),
        log_loss_p_value=permutation_p_value(losses[1] - losses[0], cluster),
        only_in_a=len(keyed_a) - len(shared),
        only_in_b=len(keyed_b) - len(shared),
    )


_Key = tuple[str, str, str, str | None, int]


def _keyed(rows: Sequence[PairRow]) -> dict[_Key, PairRow]:
    """Rows by prompt, texts in a fixed order, and aspect, turned to that order; a text against itself has none.

    Several judgements of one pair are told apart by their votes, as rows come in any order.
    """
    keyed: dict[_Key, PairRow] = {}
    turned = [row if row.first < row.second else _turned(row) for row in rows if row.first != row.second]
    for row in sorted(turned, key=lambda row: (row.votes, row.preference)):
        number = 0
        while (key := (row.prompt, row.first, row.second, row.aspect, number)) in keyed:
            number += 1
        keyed[key] = row
    return keyed


def _turned(row: PairRow) -> PairRow:
    return row.model_copy(
        update={
            "first": row.second, "second": row.first,
            "preference": 1 - row.preference,
            "length_first": row.length_second, "length_second": row.length_first,
            "score_first": row.score_second, "score_second": row.score_first,
        }
    )  # fmt: skip


def _margins(rows: Sequence[PairRow]) -> FloatArray:
    return np.array([row.score_first - row.score_second for row in rows])


def _difference(name: str, pairs: Sequence[tuple[PairRow, PairRow]]) -> Difference:
    side_a, side_b = zip(*pairs, strict=True)
    preference = np.array([row.preference for row in side_a])
    right_a, right_b = (metrics.correct(_margins(side), preference) for side in (side_a, side_b))
    cluster = _clusters(side_a)
    return Difference(
        name=name,
        pairs=len(pairs),
        prompts=int(cluster.max()) + 1,
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=metrics.clustered_interval(right_b - right_a, cluster),
        p_value=permutation_p_value(right_b - right_a, cluster),
        both=float((right_a * right_b).sum()),
        only_a=float((right_a * (1 - right_b)).sum()),
        only_b=float(((1 - right_a) * right_b).sum()),
        neither=float(((1 - right_a) * (1 - right_b)).sum()),
    )


def _clusters(rows: Sequence[PairRow]) -> IntArray:
    """Numbers from 0 on of what belongs together."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(row.cluster, len(numbers)) for row in rows])


def permutation_p_value(difference: FloatArray, cluster: IntArray, *, seed: int = 0, draws: int = DRAWS) -> float:
    """Two-sided p of a mean difference of 0, by random signs of whole clusters; at least 1 / (draws + 1)."""
    sums = np.bincount(cluster, difference)
    generator = np.random.default_rng(seed)
    observed, as_large = abs(sums.sum()), 1
    for part in np.array_split(np.arange(draws), max(1, draws * len(sums) // 10_000_000)):
        signs = generator.integers(0, 2, (len(part), len(sums)), dtype=np.int8) * 2 - 1
        as_large += int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    return as_large / (draws + 1)
