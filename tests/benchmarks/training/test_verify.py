"""Every part of training is measured, and what falls short ends the command with 1."""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.result import Result, Target
from benchmarks.training import verify


def result(held: bool) -> Result:
    return Result("none", True, 0, [Target("accuracy", "80 %", "81 %", held)], {})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command over made-up parts; returns its status."""
    monkeypatch.setattr(Result, "write", lambda self: None)

    def run(speed: bool | Exception, accuracies: list[bool | Exception]) -> int:
        def measured() -> Result:
            if isinstance(speed, Exception):
                raise speed
            return result(speed)

        def trained(parts: list[str], seeds: int, quick: bool) -> Iterator[Result]:
            assert (set(parts), seeds, quick) == (set(verify.accuracy.PARTS), 1, True)
            for accuracy in accuracies:
                if isinstance(accuracy, Exception):
                    raise accuracy
                yield result(accuracy)

        monkeypatch.setattr(verify, "ONE_BY_ONE", {"speed": measured})
        monkeypatch.setattr(verify.accuracy, "run", trained)
        return verify.main()

    return run


@pytest.mark.parametrize(
    ("speed", "accuracies", "said"),
    [
        (True, [True, True], "3 of 3 targets held"),
        (True, [True, False], "2 of 3 targets held"),
        (ValueError("no\nroot"), [True], "NOT HELD  speed: ValueError: no root"),
        (True, [True, FileNotFoundError("no data")], "NOT HELD  accuracy: FileNotFoundError: no data"),
    ],
)
def test_what_falls_short_is_told_and_hinders_no_other(
    run: Any, capsys: pytest.CaptureFixture[str], speed: Any, accuracies: list[Any], said: str
) -> None:
    held = all(part is True for part in (speed, *accuracies))
    assert run(speed, accuracies) == (0 if held else 1)
    out = capsys.readouterr().out
    assert said in out
    assert "held      accuracy: 81 %" in out


def test_all_of_training_is_there() -> None:
    assert len(verify.ONE_BY_ONE) == 1 + len(verify.speed.PARTS)
