"""Folds side by side in processes: what is done is kept, and what the figures say is what was tested."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import cross_validation
from benchmarks.accuracy.cross_validation import Asked, cross_validate
from benchmarks.accuracy.figures import Pooled, figures
from benchmarks.accuracy.folds import PROTOCOLS, Fold
from benchmarks.accuracy.train import HeldOut, train_and_test
from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training.config import ModelConfig, OptimiserConfig, TrainingConfig


@pytest.fixture
def recipe(tmp_path: Path) -> TrainingConfig:
    backbone = save_backbone(tmp_path / "backbone", "llama", causal_tokenizer())
    return TrainingConfig(
        model=ModelConfig(backbone=str(backbone), max_tokens=64, block_queries=16, ensemble=3),
        optimiser=OptimiserConfig(epochs=2, learning_rate=1e-3, head_learning_rate=1e-2, patience=0),
    )


def toy_folds(seed: int) -> list[Fold]:
    every = [r.model_copy(update={"id": f"t{k}"}) for k, r in enumerate(toy_records(60, responses=3))]
    return [Fold(f"f{k}", every[20:], every[10:20], every[10:20], every[5 * k : 5 * k + 5]) for k in range(2)]


def test_a_fold_is_trained_and_tested_the_same_again(recipe: TrainingConfig, tmp_path: Path) -> None:
    one, again, other = (train_and_test(toy_folds(0)[0], recipe, seed) for seed in (0, 0, 1))
    assert one.margins.shape == (15, 3)
    assert np.array_equal(one.margins, again.margins)
    assert not np.array_equal(one.margins, other.margins)
    assert one.record[:3] == ["t0"] * 3
    assert set(one.preference.tolist()) <= {0.0, 1.0}
    one.dump(tmp_path / "x.json")
    assert figures(Pooled.of([[HeldOut.load(tmp_path / "x.json")]])) == figures(Pooled.of([[one]]))


def test_what_is_done_is_kept_by_commit_and_recipe(
    recipe: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, so that the folds need not be found by the name of a protocol in others."""
    monkeypatch.setattr(cross_validation, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cross_validation, "code", lambda: "abc")
    monkeypatch.setattr(cross_validation, "process_pool", Here)
    monkeypatch.setitem(PROTOCOLS, "toy", toy_folds)  # type: ignore[index]
    first, one = cross_validate(Asked("toy", recipe, range(2)), Asked("toy", recipe, range(1), [1]))
    assert [[len(fold.record) for fold in run] for run in first] == [[15, 15]] * 2
    assert [[fold.record for fold in run] for run in one] == [[first[0][1].record]]
    monkeypatch.setattr(cross_validation, "train_and_test", None)
    (again,) = cross_validate(Asked("toy", recipe, range(2)))
    assert figures(Pooled.of(again)) == figures(Pooled.of(first))
    other = recipe.model_copy(update={"optimiser": recipe.optimiser.model_copy(update={"epochs": 3})})
    with pytest.raises(TypeError):
        cross_validate(Asked("toy", other, range(1)))


class Here:
    """A pool of none."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None: ...
    def submit(self, work: Callable[..., None], *arguments: object) -> "Future[None]":
        future: Future[None] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def fold(margins: list[list[float]], temperature: float, start: int = 0) -> HeldOut:
    count = len(margins)
    return HeldOut(
        record=[f"r{start + k}" for k in range(count)], cluster=[f"c{start + k // 2}" for k in range(count)],
        source=["s"] * count, preference=np.ones(count), lengths=np.array([[10, 9]] * count),
        margins=np.array(margins), temperature=temperature, updates=1, seconds=1.0, validation_loss=0.5,
    )  # fmt: skip


@given(st.lists(st.floats(-5, 5).filter(bool), min_size=4, max_size=30), st.integers(1, 3))
def test_accuracy_is_the_mean_over_seeds_and_folds_count_by_their_pairs(margins: list[float], seeds: int) -> None:
    half = len(margins) // 2
    runs = [
        [fold([[sign * m] for m in margins[:half]], 1.0), fold([[sign * m] for m in margins[half:]], 2.0, half)]
        for sign in (1, -1, 1)[:seeds]
    ]
    found = figures(Pooled.of(runs))
    each = [np.mean([sign * m > 0 for m in margins]) for sign in (1, -1, 1)[:seeds]]
    assert found.accuracy_by_seed == pytest.approx(each)
    assert found.accuracy.value == pytest.approx(np.mean(each))
    halves = [np.mean([m > 0 for m in part]) for part in (margins[:half], margins[half:])]
    if seeds == 1:
        assert found.accuracy_by_fold == pytest.approx(np.mean(halves))
    assert found.length_rule.value == 1.0
    assert found.matched_pairs == len(margins)


def test_each_fold_has_its_temperature_and_the_reward_is_the_mean_of_members() -> None:
    pooled = Pooled.of([[fold([[1.0, 3.0]] * 4, 1.0), fold([[2.0, 6.0]] * 4, 2.0, 4)]])
    assert pooled.margin.tolist() == [[2.0] * 4 + [4.0] * 4]
    sure = 1 / (1 + np.exp(-2.0))
    assert figures(pooled).ece == pytest.approx(1 - sure)


def test_seeds_that_tested_other_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="not tested the same pairs"):
        Pooled.of([[fold([[1.0]], 1.0)], [fold([[1.0]], 1.0, 5)]])
