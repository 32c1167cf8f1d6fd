"""What the log says of a step is what one would count by hand."""

import pytest
import torch

from training.step_figures import step_figures, step_sums


def batch(preference: list[float], weights: list[list[float]]) -> dict[str, torch.Tensor]:
    """Each judgement on two responses of its own."""
    count = len(preference)
    return {
        "first": torch.arange(0, 2 * count, 2),
        "second": torch.arange(1, 2 * count, 2),
        "preference": torch.tensor(preference),
        "weights": torch.tensor(weights),
    }


def test_by_hand() -> None:
    scores = torch.tensor([[2.0], [1.0], [0.0], [4.0], [1.0], [1.0], [3.0], [0.0]])
    found = step_figures(step_sums(scores, batch([1.0, 0.75, 0.0, 0.5], [[1.0], [1.0], [2.0], [1.0]])))
    assert found == {
        "accuracy": (1 + 0 + 0.5) / 3,  # won, lost, a tie of scores; people's tie has no winner
        "margin": (1 * 1 - 4 * 0.5 + 0 + 0) / 4,
        "score_mean": 1.5,
    }


def test_a_head_answers_for_what_it_learns_from() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, 1.0], [9.0, 0.0]])
    found = step_figures(step_sums(scores, batch([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])))
    assert found["accuracy"] == 1
    assert found["margin"] == 1


def test_steps_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(12, 1, generator=generator)
    preference, weights = [1.0, 0.0, 0.7, 0.5, 1.0, 0.2], [[1.0]] * 6
    whole = step_sums(scores, batch(preference, weights))
    halves = [step_sums(scores[k : k + 6], batch(preference[k // 2 : k // 2 + 3], weights[:3])) for k in (0, 6)]
    torch.testing.assert_close(sum(halves), whole)


def test_nothing_is_said_of_nothing() -> None:
    assert step_figures(step_sums(torch.zeros(2, 1), batch([0.5], [[1.0]]))).keys() == {"margin", "score_mean"}
    assert step_figures(step_sums(torch.zeros(2, 1), batch([1.0], [[0.0]]))) == pytest.approx({"score_mean": 0.0})
