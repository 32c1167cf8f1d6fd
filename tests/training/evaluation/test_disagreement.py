"""Disagreement that foretells errors is told from one that only follows the margin."""

import numpy as np
import pytest

from training.evaluation.disagreement import disagreement

GENERATOR = np.random.default_rng(0)
PAIRS = 1000


def members(deviation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(P, 4) margins of that mean and standard deviation."""
    noise = GENERATOR.normal(size=(len(deviation), 4))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, ddof=1, keepdims=True)
    return mean[:, None] + noise * deviation[:, None]


def test_errors_where_the_members_disagree() -> None:
    deviation = GENERATOR.permutation(np.linspace(0.1, 1, PAIRS))
    right = (GENERATOR.random(PAIRS) > deviation / 2).astype(float)
    found = disagreement(members(deviation, np.ones(PAIRS)), right, np.arange(PAIRS))
    assert [group.pairs for group in found.groups] == [PAIRS // 5] * 5
    assert [group.deviation for group in found.groups] == pytest.approx([0.19, 0.37, 0.55, 0.73, 0.91], abs=0.02)
    assert found.groups[0].error.high < found.groups[-1].error.low
    assert (found.spearman["d"] or 0) > 0.15
    assert found.at_equal_margin.low > 0.1
    assert found.kept["0.2"]["|m| / d"].low > right.mean()
    assert found.kept["1"]["|m|"].value == pytest.approx(right.mean())


def test_members_that_only_grow_together_add_nothing_to_the_margin() -> None:
    """Their deviation is a tenth of the margin everywhere: alone it seems to say that large margins are unsure."""
    margin = GENERATOR.permutation(np.linspace(0.1, 2, PAIRS))
    right = (GENERATOR.random(PAIRS) < 0.5 + margin / 4).astype(float)
    jitter = 0.1 * margin * GENERATOR.uniform(0.9, 1.1, PAIRS)
    found = disagreement(members(jitter, margin), right, np.arange(PAIRS))
    assert (found.spearman["d"] or 0) < -0.2
    assert (found.spearman["-|m|"] or 0) > 0.2
    assert found.at_equal_margin.low < 0 < found.at_equal_margin.high


def test_few_pairs_make_few_groups() -> None:
    found = disagreement(members(np.array([0.1, 0.2]), np.ones(2)), np.array([1.0, 1.0]), np.array([0, 1]))
    assert [group.pairs for group in found.groups] == [1, 1]
    assert found.spearman["d"] is None
    assert found.at_equal_margin.value == 0.0
    assert found.kept["0.2"]["|m|"].value == 1.0
