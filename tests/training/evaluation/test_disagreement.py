"""Disagreement that foretells errors is told from one that does not."""

import numpy as np
import pytest

from training.evaluation.disagreement import disagreement

GENERATOR = np.random.default_rng(0)


def members(spread: np.ndarray, mean: float = 0.0) -> np.ndarray:
    """(P, 4) margins of that mean and standard deviation."""
    noise = GENERATOR.normal(size=(len(spread), 4))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, ddof=1, keepdims=True)
    return mean + noise * spread[:, None]


def test_errors_where_the_members_disagree() -> None:
    spread = GENERATOR.permutation(np.linspace(0.1, 1, 500))
    right = (GENERATOR.random(500) > spread / 2).astype(float)
    found = disagreement(members(spread, 1.0), right, np.arange(500))
    assert [group.pairs for group in found.groups] == [100] * 5
    expected = [d / (1 + d) for d in (0.19, 0.37, 0.55, 0.73, 0.91)]
    assert [group.disagreement for group in found.groups] == pytest.approx(expected, abs=0.02)
    assert found.groups[0].error.high < found.groups[-1].error.low
    assert found.spearman is not None
    assert found.spearman == found.spearman_deviation
    assert found.spearman > 0.15
    kept = list(found.kept.values())
    assert kept[0] == pytest.approx(right.mean())
    assert kept[-1] > kept[0] + 0.1


def test_members_that_grow_together_are_not_torn() -> None:
    """Their deviation is a tenth of the margin everywhere: only d itself seems to say that large margins are unsure."""
    margin = GENERATOR.permutation(np.linspace(0.1, 2, 500))
    right = (GENERATOR.random(500) < 0.5 + margin / 4).astype(float)
    found = disagreement(margin[:, None] * (1 + 0.1 * members(np.ones(500))), right, np.arange(500))
    assert [group.disagreement for group in found.groups] == pytest.approx([1 / 11] * 5)
    assert found.spearman_deviation is not None
    assert found.spearman_deviation < -0.2


def test_few_pairs_make_few_groups() -> None:
    found = disagreement(members(np.array([0.1, 0.2])), np.array([1.0, 1.0]), np.array([0, 1]))
    assert [group.pairs for group in found.groups] == [1, 1]
    assert found.spearman is None
    assert found.kept["0.2"] == 1.0
