"""Weights in parts are joined once, and only if they are the expected ones."""

import hashlib
import io
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from training import split_package
from training.backbone import resolve
from training.split_package import SplitPackage, joined

WEIGHTS = bytes(range(256)) * 40


def install(site: Path, archive: bytes, parts: int = 3) -> list[str]:
    """Packages as pip leaves them, each with a part of the archive in a folder that cannot be imported."""
    packages = [f"in-parts-{number}" for number in range(parts)]
    size = -(-len(archive) // parts)
    for number, package in enumerate(packages):
        part = Path(f"in-parts_{number}") / f"weights.zip.00{number}"
        (site / part).parent.mkdir(parents=True)
        (site / part).write_bytes(archive[number * size : (number + 1) * size])
        about = site / f"in_parts_{number}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (about / "RECORD").write_text(f"{part},,\n{about.name}/METADATA,,\n")
    return packages


def zipped(weights: bytes = WEIGHTS, name: str = "model.safetensors") -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(f"folder/{name}", weights)
        opened.writestr("folder/config.json", "{}")
    return archive.getvalue()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    monkeypatch.setattr(split_package, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "site"


def split(packages: list[str], weights: bytes = WEIGHTS) -> SplitPackage:
    return SplitPackage(packages, "folder", hashlib.sha256(weights).hexdigest())


def test_parts_are_joined_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = split(install(site, zipped()))
    folder = joined(asked)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == "{}"
    assert {path.name for path in folder.parent.iterdir() if path.suffix != ".lock"} == {folder.name}
    monkeypatch.setattr(sys, "path", [])  # the packages are not asked again
    assert joined(asked) == folder


@pytest.mark.parametrize(
    ("archive", "weights", "said"),
    [
        (zipped(b"others"), WEIGHTS, "these are other weights"),
        (zipped()[:-60], WEIGHTS, "are no archive"),
        (zipped(name="pytorch_model.bin"), WEIGHTS, "hold no folder/model.safetensors"),
    ],
)
def test_other_files_are_refused_and_not_kept(site: Path, archive: bytes, weights: bytes, said: str) -> None:
    asked = split(install(site, archive), weights)
    for _ in range(2):
        with pytest.raises(OSError, match=said):
            joined(asked)
    assert not [path for path in Path(split_package.HF_HOME, "assay").iterdir() if path.suffix != ".lock"]


def test_what_is_left_of_a_join_that_was_killed_goes_and_what_is_damaged_is_made_again(site: Path) -> None:
    asked = split(install(site, zipped()))
    folder = joined(asked)
    (folder / "model.safetensors").unlink()
    (folder.with_suffix(".part") / "folder").mkdir(parents=True)
    (folder.with_suffix(".part") / "archive.zip").write_bytes(b"half")
    assert joined(asked) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not folder.with_suffix(".part").exists()


def test_of_processes_at_once_one_joins(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = split(install(site, zipped()))
    joins: list[Path] = []
    join = split_package._join

    def counted(split: SplitPackage, parts: Sequence[Path], kept: Path) -> None:
        joins.append(kept)
        join(split, parts, kept)

    monkeypatch.setattr(split_package, "_join", counted)
    with ThreadPoolExecutor(4) as pool:  # each opens the lock's file anew, as a process does
        folders = {*pool.map(joined, [asked] * 4)}
    assert folders == {joins[0]}
    assert len(joins) == 1


def test_a_folder_that_cannot_be_written_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = install(site, zipped())
    file = site / "file"
    file.touch()
    monkeypatch.setattr(split_package, "HF_HOME", str(file))
    monkeypatch.setattr("training.backbone._SPLIT_PACKAGES", {"mpnet": (split(packages), "a/b", "MIT")})
    with pytest.raises(OSError, match=r"model.backbone: 'mpnet': its weights cannot be .*/file/assay/.*HF_HOME"):
        resolve("mpnet")


def test_a_package_without_its_part(site: Path) -> None:
    packages = install(site, zipped())
    record = next(site.glob("in_parts_1*")) / "RECORD"
    record.write_text("")
    with pytest.raises(OSError, match="'in-parts-1' holds no part"):
        joined(split(packages))


def test_a_missing_package_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [*install(site, zipped()), "in-parts-3"]
    with pytest.raises(PackageNotFoundError):
        joined(split(packages))
    monkeypatch.setattr("training.backbone._SPLIT_PACKAGES", {"mpnet": (split(packages), "a/b", "MIT")})
    with pytest.raises(FileNotFoundError, match="in-parts-3 is not installed; .*make mpnet"):
        resolve("mpnet")
