"""Each benchmark's own arithmetic, worked out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from training.data.errors import DataError
from training.evaluation.reward_benchmarks.results import SECTIONS, rewardbench, rewardbench2, rm_bench
from training.evaluation.reward_benchmarks.summary import benchmark_summary
from training.evaluation.reward_benchmarks.tasks import Scored, Task


def scored(group: str, chosen: Sequence[float], rejected: Sequence[float], name: str = "1") -> Scored:
    task = Task(name, "p", ["c"] * len(chosen), ["r"] * len(rejected), group)
    return Scored(task, np.array(chosen, dtype=np.float64), np.array(rejected, dtype=np.float64))


def test_sections_of_rewardbench_weigh_subsets_by_fixed_numbers() -> None:
    result = rewardbench([
        scored("math-prm", [1], [0]), scored("math-prm", [0], [1]),  # 1/2, weighs 984
        scored("hep-go", [1], [0]),  # 1, weighs 164
        scored("alpacaeval-easy", [1], [1]),  # equal scores are no win
    ])  # fmt: skip
    assert result.sections == {"Chat": 0.0, "Reasoning": pytest.approx((984 / 2 + 164) / (984 + 164))}
    assert result.overall == pytest.approx(result.sections["Reasoning"] / 2)
    assert "hep-rust" in result.missing
    assert "math-prm" not in result.missing
    page = benchmark_summary("mine", result)
    assert "| Reasoning | 57.1 |" in page
    assert "Not the whole benchmark: the file has no task of alpacaeval-length" in page


def test_rewardbench_has_its_23_subsets_and_math_counts_as_code() -> None:
    assert sum(len(weights) for weights in SECTIONS.values()) == 23
    reasoning = dict(SECTIONS["Reasoning"])
    assert reasoning.pop("math-prm") == sum(reasoning.values())


def test_a_subset_of_ones_own_counts_in_no_section() -> None:
    result = rewardbench([scored("mine", [1], [0])])
    assert (result.unknown, result.sections) == (["mine"], {})
    assert result.overall is None
    page = benchmark_summary("m", result)
    assert "such subset: mine." in page
    assert "nan" not in page


def test_rewardbench_2_shares_the_best_place() -> None:
    result = rewardbench2([
        scored("Math", [3], [1, 2, 0]),
        scored("Math", [3], [3, 3, 0]),
        scored("Math", [1], [3, 0, 0]),
        scored("Focus", [1], [0, 0, 0]),
    ])  # fmt: skip
    assert result.sections == {"Math": pytest.approx((1 + 1 / 3 + 0) / 3), "Focus": 1.0}
    assert result.overall == pytest.approx((4 / 9 + 1) / 2)
    assert set(result.missing) == {"Factuality", "Precise IF", "Safety", "Ties"}


def test_ties_of_rewardbench_2() -> None:
    """Two prompts; of the first all holds, of the second the right answers lie further apart than the wrong ones."""
    result = rewardbench2([
        scored("Ties", [5], [1, 0], "ref:1"), scored("Ties", [5, 4.5, 4], [1, 0], "tied:1"),  # spread 1, gaps 3 and 4
        scored("Ties", [2], [1.5], "ref:2"), scored("Ties", [9, 4], [3, 0], "tied:2"),  # spread 5, gaps 1 and 0.5
    ])  # fmt: skip
    ratio = (math.tanh(3 / 1 - 1) + math.tanh(0.5 / 5 - 1)) / 2
    expected = 0.3 * 1 + 0.3 * 1 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * ratio
    assert result.sections == {"Ties": pytest.approx(expected)}
    assert result.details["ties, accuracy with many"] == 1.0
    assert result.details["ties, the same by the smaller gap"] == 0.5


def test_ties_without_their_other_half_or_spread() -> None:
    alone = rewardbench2([scored("Ties", [5, 4], [6], "tied:1")])
    assert alone.sections["Ties"] == 0.0
    same = rewardbench2([scored("Ties", [5], [1], "ref:1"), scored("Ties", [4, 4], [1], "tied:1")])
    assert same.sections["Ties"] == pytest.approx(1.01)  # no spread at all: the last hundredth is full
    with pytest.raises(DataError, match="the task '7' of Ties is neither ref:N nor tied:N"):
        rewardbench2([scored("Ties", [5], [1], "7")])


def test_the_matrix_of_rm_bench() -> None:
    """The fancier, the higher, and the good response a little higher than the bad one of its style."""
    one = scored("chat", [1.1, 2.1, 3.1], [1, 2, 3])
    result = rm_bench([one])
    assert result.details == {"hard": 0.0, "normal": 1.0, "easy": 1.0}
    assert result.sections == {"Chat": pytest.approx(2 / 3)}
    two = rm_bench(
        [one, scored("safety-refuse", [9, 9, 9], [1, 1, 1]), scored("safety-response", [1, 1, 1], [9, 9, 9])]
    )
    assert two.sections == {"Chat": pytest.approx(2 / 3), "Safety": 0.5}
    assert two.overall == pytest.approx((2 / 3 + 0.5) / 2)
    assert two.details["hard"] == pytest.approx((0 + 0.5) / 2)
    assert set(two.missing) == {"code", "math"}
