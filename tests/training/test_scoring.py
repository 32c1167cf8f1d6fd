"""Where a model is scored."""

from typing import Any

import pytest
import torch

from service.bundle.layout import Family
from tests.training.tiny import tiny_checkpoint
from training.scoring import move_to_accelerator


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices that a model is moved to, with one GPU that is called by the name of a device without values."""
    made: list[str] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda _, device: made.append(str(device)))
    return made


def test_on_the_gpu_where_there_is_one(moves: list[str]) -> None:
    move_to_accelerator(tiny_checkpoint(Family.CAUSAL).model)
    assert moves == ["meta"]


def test_on_the_cpu_where_it_does_not_fit(
    moves: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def to(_: Any, device: Any) -> None:
        moves.append(str(device))
        if str(device) == "meta":
            raise torch.OutOfMemoryError

    model = tiny_checkpoint(Family.CAUSAL).model
    monkeypatch.setattr(torch.nn.Module, "to", to)
    move_to_accelerator(model)
    assert moves == ["meta", "cpu"]
    assert "does not fit on one GPU" in caplog.text


def test_left_where_it_is_without_one(moves: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    move_to_accelerator(tiny_checkpoint(Family.CAUSAL).model)
    assert moves == []
