"""Keys from files: read again when they change, and never lost by an accident."""

import logging
import os
from pathlib import Path

import pytest

from service.api import keys as module
from service.api.keys import Keys, read_keys
from tests.service.serving import serving


@pytest.fixture(autouse=True)
def _look_always(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_SECONDS", -1.0)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def mount(folder: Path, version: str, **keys: str) -> None:
    """What the kubelet does with a Secret: files in a folder of a version, and one link that is turned."""
    folder.mkdir(exist_ok=True)
    (folder / version).mkdir()
    for name, text in keys.items():
        (folder / version / name).write_text(text)
    (folder / "..new").symlink_to(version)
    (folder / "..new").rename(folder / "..data")
    for name in keys:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def test_a_file_has_a_key_a_line(tmp_path):
    path = write(tmp_path / "keys", "# for the PPO workers\none\n\n  two \n#three\n")
    assert read_keys(path) == ["one", "two"]


def test_a_folder_is_a_mounted_secret(tmp_path):
    mount(tmp_path / "keys", "..1", ppo="one\n", evaluation="two")
    assert sorted(read_keys(tmp_path / "keys")) == ["one", "two"]
    keys = Keys([], tmp_path / "keys")
    assert (keys.valid("one"), keys.valid("three")) == (True, False)
    mount(tmp_path / "keys", "..2", ppo="three", evaluation="two")
    assert (keys.valid("one"), keys.valid("two"), keys.valid("three")) == (False, True, True)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "holds no key"), ("# a\n", "holds no key"), ("ok\na b\n", ":2: holds a space")]
)
def test_a_file_that_is_no_list_of_keys(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Keys(["given"], write(tmp_path / "keys", text))
    assert "a b" not in str(error.value)


def test_what_goes_wrong_later_changes_nothing_and_is_said(tmp_path, caplog):
    path = write(tmp_path / "keys", "one")
    keys = Keys(["given"], path)
    for break_it in (lambda: path.write_text(""), path.unlink, lambda: write(path, "a b")):
        caplog.clear()
        break_it()
        with caplog.at_level(logging.ERROR, "assay.server"):
            assert keys.valid("one")
            assert keys.valid("given")
            assert not keys.valid("")
        assert "those before stay valid" in caplog.text
    write(path, "two")
    assert (keys.valid("one"), keys.valid("two"), keys.valid("given")) == (False, True, True)


def test_an_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    keys = Keys([], write(tmp_path / "keys", "one"))
    monkeypatch.setattr(module, "read_keys", None)
    assert keys.valid("one")


def test_files_are_looked_at_once_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_SECONDS", 1.0)
    times = iter([0.0, 0.5, 1.1])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    path = write(tmp_path / "keys", "one")
    keys = Keys([], path)
    write(path, "other")
    assert keys.valid("one")
    assert keys.valid("other")


def test_a_server_exchanges_its_keys_without_a_restart(pocket_bundle, tmp_path):
    path = write(tmp_path / "keys", "old")

    def status(key: str) -> int:
        return served.get("/v1/model", {"Authorization": f"Bearer {key}"}).status

    with serving(pocket_bundle, api_keys_file=path) as served:
        assert served.get("/v1/model").status == 401
        assert (status("old"), status("new")) == (200, 401)
        write(tmp_path / "next", "old\nnew\n")
        os.replace(tmp_path / "next", path)
        assert (status("old"), status("new")) == (200, 200)
        write(path, "new")
        assert (status("old"), status("new")) == (401, 200)
        assert served.get("/ready").status == 200
