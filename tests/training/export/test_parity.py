"""The gate itself: what its cases cover, and that nothing slips through it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from service.bundle.layout import Family
from tests.training.tiny import tiny_checkpoint
from training.export.parity import Parity, ParityError, measure_parity, parity_cases

Arrays = Mapping[str, npt.NDArray[Any]]
CASES = {
    name: case
    for name, case in parity_cases(300, 64, seed=0, block_queries=16).items()
    if name in ("one item", "wide tree")
}


def module_run(checkpoint: Any) -> Any:
    def run(arrays: Arrays) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            rewards: npt.NDArray[np.float32] = checkpoint.model(
                **{name: torch.from_numpy(array) for name, array in arrays.items()}
            ).numpy()
        return rewards

    return run


@pytest.mark.parametrize("max_tokens", [4, 5, 64, 512, 100_000])
def test_cases_keep_within_the_model(max_tokens: int) -> None:
    cases = parity_cases(300, max_tokens, seed=0, block_queries=64)
    for name, items in cases.items():
        assert items, name
        for item in items:
            assert 1 <= len(item) <= max_tokens
            assert item.min() >= 0
            assert item.max() < 300
    assert [len(item) for item in cases["full length"]] == [max_tokens]
    assert sum(len(item) for name, items in cases.items() if name != "full length" for item in items) < 10 * 8192
    assert len(cases["one token"][0]) == 1


@pytest.mark.parametrize("block_queries", [1, 16, 100])
def test_edges_are_those_of_the_blocks(block_queries: int) -> None:
    lengths = [len(item) for item in parity_cases(300, 512, seed=0, block_queries=block_queries)["block edges"]]
    b = block_queries
    assert lengths == [max(1, b - 1), b, b + 1, 2 * b - 1, 2 * b, 2 * b + 1]


def test_an_error_at_full_length_alone_shuts_the_gate() -> None:
    """Such as a table of positions or a window that the graph has too short."""
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    honest = module_run(checkpoint)

    def run(arrays: Arrays) -> npt.NDArray[np.float32]:
        rewards = honest(arrays)
        return rewards + (arrays["position_ids"].max() >= 2200)  # type: ignore[no-any-return]

    cases = parity_cases(300, 2201, seed=0, block_queries=16)
    failure = measure_parity(checkpoint.model, run, {"full length": cases["full length"]}, 16, "fp32").failure
    assert failure is not None
    assert "in the case 'full length'" in failure


def test_equal_scores_pass() -> None:
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    parity = measure_parity(checkpoint.model, module_run(checkpoint), CASES, 16, "fp32")
    assert parity.failure is None
    assert parity.max_error == 0
    assert 0 < parity.max_company_error < 1e-5
    assert parity.pairs > 0


def test_a_flipped_pair_fails() -> None:
    parity = Parity(1, 2, 0.0, 0.0, 0.0, 1.0, 5, 1, 1e-4, {"one item": 0.0})
    assert parity.failure == "1 of 5 pairs are ordered differently"


def test_scores_that_hardly_differ_prove_nothing() -> None:
    parity = Parity(1, 2, 0.0, 0.0, 0.0, None, 0, 0, 1e-4, {"one item": 0.0})
    assert parity.failure is not None
    assert "an order cannot be proved" in parity.failure


def test_a_low_rank_correlation_fails() -> None:
    parity = Parity(1, 9, 0.0, 0.0, 0.0, 0.9, 5, 0, 1e-4, {"one item": 0.0})
    assert parity.failure == "the rank correlation is 0.9, below 0.999"


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1.0])
def test_one_wrong_score_fails(place: int, wrong: float) -> None:
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    honest = module_run(checkpoint)

    def run(arrays: Arrays) -> npt.NDArray[np.float32]:
        rewards = honest(arrays).copy()
        rewards[place] = wrong
        return rewards  # type: ignore[no-any-return]

    failure = measure_parity(checkpoint.model, run, CASES, 16, "fp32").failure
    assert failure is not None
    assert "is above 1e-04" in failure


def test_a_wrong_number_of_scores_fails() -> None:
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    honest = module_run(checkpoint)
    with pytest.raises(ParityError, match=r"of shape \(0, 1\), the module of \(1, 1\)"):
        measure_parity(checkpoint.model, lambda arrays: honest(arrays)[1:], CASES, 16, "fp32")


def test_a_model_that_says_nothing_has_no_correlation() -> None:
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    with torch.no_grad():
        checkpoint.model.head.weight.zero_()
    assert measure_parity(checkpoint.model, module_run(checkpoint), CASES, 16, "fp32").spearman is None
