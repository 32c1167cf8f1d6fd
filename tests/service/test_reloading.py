"""Values that follow their files: never half a change, never lost by an accident, and tried until they can be read."""

import asyncio
import logging
from pathlib import Path

import pytest

from service import reloading
from service.reloading import Reloaded, follow
from tests.service.doubles import until


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


def looks(value: Reloaded[str], count: int) -> list[str]:
    """The value after each of so many looks."""
    found = []
    for _ in range(count):
        value.look()
        found.append(value.value)
    return found


def test_what_cannot_be_read_the_first_time_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        reloaded(tmp_path / "missing")


def test_a_change_counts_once_two_looks_agree(path):
    value = reloaded(path)
    path.write_text("tw")
    assert looks(value, 1) == ["one"]
    path.write_text("two")
    assert looks(value, 2) == ["one", "two"]


def test_an_unchanged_file_is_not_read_again(path, monkeypatch):
    value = reloaded(path)
    monkeypatch.setattr(Path, "read_text", None)
    assert looks(value, 3) == ["one"] * 3


def test_what_cannot_be_read_is_said_once_and_tried_until_it_can(path, caplog):
    value, outcomes = reloaded(path), []
    value.on_outcome = outcomes.append
    for break_it in (lambda: path.write_text("bad"), path.unlink):
        caplog.clear()
        break_it()
        with caplog.at_level(logging.ERROR, "assay.server"):
            assert looks(value, 5) == ["one"] * 5
        assert caplog.text.count("those before stay valid") == 1
    assert set(outcomes) == {True}
    path.write_text("two")
    assert looks(value, 2) == ["one", "two"]
    assert outcomes[-1] is False


def test_a_file_that_only_became_readable_is_read(path, monkeypatch):
    """Its size and time are the same as when it could not be read."""
    value = reloaded(path)
    path.write_text("bad")
    assert looks(value, 3) == ["one"] * 3
    monkeypatch.setattr(Path, "read_text", lambda self: "two")
    assert looks(value, 1) == ["two"]


async def test_files_are_followed_while_nobody_asks(path, monkeypatch):
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.001)
    value = reloaded(path)
    following = asyncio.create_task(follow([value]))
    path.write_text("two")
    await until(lambda: value.value == "two")
    following.cancel()
