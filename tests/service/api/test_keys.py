"""Keys from files: read again when they change, and never lost by an accident."""

import os
import time
from pathlib import Path

import pytest

from service import reloading
from service.api.keys import Keys, read_keys
from tests.service.doubles import PATIENCE
from tests.service.serving import serving


def settled(keys: Keys) -> Keys:
    """The keys after looks that see a change and take it."""
    assert keys.files is not None
    keys.files.look()
    keys.files.look()
    return keys


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


def test_a_mark_of_byte_order_is_no_part_of_a_key(tmp_path):
    assert read_keys(write(tmp_path / "keys", "\ufeffone")) == ["one"]


def test_a_file_has_a_key_a_line(tmp_path):
    path = write(tmp_path / "keys", "# for the PPO workers\none\n\n  two \n#three\n")
    assert read_keys(path) == ["one", "two"]


def test_a_folder_is_a_mounted_secret(tmp_path):
    mount(tmp_path / "keys", "..1", ppo="one\n", evaluation="two")
    assert sorted(read_keys(tmp_path / "keys")) == ["one", "two"]
    keys = Keys([], tmp_path / "keys")
    assert (keys.valid("one"), keys.valid("three")) == (True, False)
    mount(tmp_path / "keys", "..2", ppo="three", evaluation="two")
    settled(keys)
    assert (keys.valid("one"), keys.valid("two"), keys.valid("three")) == (False, True, True)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "holds no key"), ("# a\n", "holds no key"), ("ok\na b\n", ":2: holds a space")]
)
def test_a_file_that_is_no_list_of_keys(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Keys(["given"], write(tmp_path / "keys", text))
    assert "a b" not in str(error.value)


def test_a_server_exchanges_its_keys_without_a_restart(pocket_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    path = write(tmp_path / "keys", "old")

    def status(key: str) -> int:
        return served.get("/v1/model", {"Authorization": f"Bearer {key}"}).status

    def until(*expected: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while (status("old"), status("new")) != expected:
            assert time.monotonic() < deadline

    with serving(pocket_bundle, api_keys_file=path) as served:
        assert served.get("/v1/model").status == 401
        assert (status("old"), status("new")) == (200, 401)
        write(tmp_path / "next", "old\nnew\n")
        os.replace(tmp_path / "next", path)
        until(200, 200)
        write(path, "new")
        until(401, 200)
        assert served.get("/ready").status == 200
