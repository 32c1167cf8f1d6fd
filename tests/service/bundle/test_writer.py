"""A bundle takes its place whole, or what was there stays."""

import os
import shutil
from pathlib import Path

import pytest

from service.bundle.layout import Family
from service.bundle.manifest import Manifest
from service.bundle.reader import Bundle, BundleError, read_bundle
from service.bundle.writer import list_files, write_bundle
from tests.pocket import write_pocket_bundle


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def staged(pocket_encoder_bundle: Bundle, tmp_path: Path) -> tuple[Path, Manifest]:
    """A finished staging folder and its manifest."""
    staging = Path(shutil.copytree(pocket_encoder_bundle.folder, tmp_path / "staging"))
    (staging / "bundle.json").unlink()
    return staging, pocket_encoder_bundle.manifest


def test_entries_of_all_files_but_the_manifest(pocket_bundle: Bundle) -> None:
    assert list_files(pocket_bundle.folder) == pocket_bundle.manifest.files
    assert "bundle.json" not in pocket_bundle.manifest.files


def test_a_new_bundle(staged: tuple[Path, Manifest], tmp_path: Path) -> None:
    bundle = write_bundle(*staged, tmp_path / "some" / "where" / "bundle")
    assert bundle.folder == tmp_path / "some/where/bundle"
    assert bundle.manifest == staged[1]
    assert bundle.digest == read_bundle(bundle.folder).digest
    assert not staged[0].exists()


def test_an_older_bundle_is_replaced(staged: tuple[Path, Manifest], tmp_path: Path) -> None:
    old = write_pocket_bundle(tmp_path / "bundle", external_data=True)
    new = write_bundle(*staged, tmp_path / "bundle")
    assert new.digest == read_bundle(tmp_path / "bundle").digest != old.digest
    assert new.manifest.family is Family.BIDIRECTIONAL
    assert set(contents(new.folder)) == {*new.manifest.files, "bundle.json"}
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("damage", ["missing", "extra", "altered", "link"])
def test_a_bad_bundle_leaves_the_older_one_alone(staged: tuple[Path, Manifest], tmp_path: Path, damage: str) -> None:
    staging, manifest = staged
    old = write_pocket_bundle(tmp_path / "bundle")
    before = contents(old.folder)
    match damage:
        case "missing":
            (staging / "parity.json").unlink()
        case "extra":
            (staging / "notes.txt").touch()
        case "altered":
            (staging / "model.onnx").write_bytes(b"")
        case "link":
            (staging / "report/link").symlink_to("summary.md")
    with pytest.raises(BundleError, match=r"staging/(parity.json|notes.txt|model.onnx|report/link): "):
        write_bundle(staging, manifest, tmp_path / "bundle")
    assert contents(old.folder) == before
    assert read_bundle(old.folder).digest == old.digest


def test_a_bad_bundle_is_not_written_at_all(staged: tuple[Path, Manifest], tmp_path: Path) -> None:
    (staged[0] / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json: is listed"):
        write_bundle(*staged, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_move_that_fails_leaves_the_older_bundle_in_place(
    staged: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_pocket_bundle(tmp_path / "bundle")
    rename = Path.rename

    def fail(source: Path, target: Path) -> Path:
        # What moving between two file systems does.
        if source == staged[0]:
            raise OSError(18, "Invalid cross-device link")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="cross-device"):
        write_bundle(*staged, tmp_path / "bundle")
    assert read_bundle(tmp_path / "bundle").digest == old.digest
    assert sorted(os.listdir(tmp_path)) == ["bundle", "staging"]


@pytest.mark.parametrize("what", ["folder", "file", "link to a bundle", "dangling link"])
def test_what_is_no_bundle_is_never_replaced(staged: tuple[Path, Manifest], tmp_path: Path, what: str) -> None:
    destination = tmp_path / "precious"
    match what:
        case "folder":
            destination.mkdir()
            (destination / "thesis.tex").write_text("years of work")
        case "file":
            destination.write_text("years of work")
        case "link to a bundle":
            destination.symlink_to(write_pocket_bundle(tmp_path / "bundle").folder)
        case "dangling link":
            destination.symlink_to(tmp_path / "nowhere")
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="precious: is there and is not a bundle"):
        write_bundle(*staged, destination)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_taken(staged: tuple[Path, Manifest], tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    assert write_bundle(*staged, tmp_path / "bundle").manifest == staged[1]
