"""Values that follow their files: never half a change, never lost by an accident, and tried until they can be read."""

import logging
from pathlib import Path

import pytest

from service import reloading
from service.reloading import Reloaded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(reloading.time, "monotonic", clock)
    return clock


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


def reloaded(path: Path) -> Reloaded[str]:
    def read() -> str:
        text = path.read_text()
        if "bad" in text:
            raise ValueError(f"{path}: bad")
        return text

    return Reloaded("the text", [path], read)


def after(clock: Clock, value: Reloaded[str], *seconds: float) -> list[str]:
    found = []
    for pause in seconds:
        clock.now += pause
        found.append(value.value)
    return found


def test_what_cannot_be_read_the_first_time_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        reloaded(tmp_path / "missing")


def test_a_change_counts_once_two_looks_agree(clock, path):
    value = reloaded(path)
    path.write_text("tw")
    assert after(clock, value, 0.5, 0.6) == ["one", "one"]  # no look, and the first that sees it
    path.write_text("two")
    assert after(clock, value, 1, 0.5, 0.6) == ["one", "one", "two"]


def test_an_unchanged_file_is_not_read_again(clock, path, monkeypatch):
    value = reloaded(path)
    monkeypatch.setattr(Path, "read_text", None)
    assert after(clock, value, 1, 1, 1) == ["one"] * 3


def test_what_cannot_be_read_is_said_once_and_tried_until_it_can(clock, path, caplog):
    value, outcomes = reloaded(path), []
    value.on_outcome = outcomes.append
    for break_it in (lambda: path.write_text("bad"), path.unlink):
        caplog.clear()
        break_it()
        with caplog.at_level(logging.ERROR, "assay.server"):
            assert after(clock, value, *[1.0] * 5) == ["one"] * 5
        assert caplog.text.count("those before stay valid") == 1
    assert set(outcomes) == {True}
    path.write_text("two")
    assert after(clock, value, 1, 1) == ["one", "two"]
    assert outcomes[-1] is False


def test_a_file_that_only_became_readable_is_read(clock, path, monkeypatch):
    """Its size and time are the same as when it could not be read."""
    value = reloaded(path)
    path.write_text("bad")
    assert after(clock, value, 1, 1, 1) == ["one"] * 3
    monkeypatch.setattr(Path, "read_text", lambda self: "two")
    assert after(clock, value, 1) == ["two"]
