"""Pretrained weights that Python packages carry in parts: a zip archive cut in pieces, one a package."""

import hashlib
import importlib.metadata
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from huggingface_hub.constants import HF_HOME

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class SplitPackage:
    """An archive of one folder.

    Attributes:
        packages: in the order of their parts; each holds one file `*.zip.NNN`.
        folder: name of the folder in the archive.
        sha256: of its model.safetensors.
    """

    packages: Sequence[str]
    folder: str
    sha256: str


def joined(split: SplitPackage) -> Path:
    """The archive's folder, which is kept beside transformers' own downloads once it was joined and checked.

    Of several processes one joins, and the others wait for it.

    Raises:
        importlib.metadata.PackageNotFoundError: a package is not installed.
        OSError: what the packages hold is not what is expected, or the folder cannot be written.
    """
    kept = Path(HF_HOME) / "assay" / f"{split.folder}-{split.sha256[:12]}"  # and no dot in it, for `with_suffix`
    if (kept / _WEIGHTS).is_file():
        return kept
    parts = [_part(package) for package in split.packages]
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if not (kept / _WEIGHTS).is_file():
                _join(split, parts, kept)
    except OSError as error:
        advice = "" if error.errno is None else "; make room there, or set HF_HOME to another place"
        raise OSError(f"its weights cannot be joined in {kept}: {error}{advice}") from error
    return kept


def _join(split: SplitPackage, parts: Sequence[Path], kept: Path) -> None:
    scratch = kept.with_suffix(".part")
    for left in (scratch, kept):  # by a process that was killed, or damaged since
        shutil.rmtree(left, ignore_errors=True)
    scratch.mkdir()
    try:
        archive = scratch / "archive.zip"
        with archive.open("wb") as whole:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(scratch)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise OSError(f"the parts in {', '.join(split.packages)} are no archive: {error}") from error
        archive.unlink()
        _check(scratch / split.folder / _WEIGHTS, split)
        (scratch / split.folder).rename(kept)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _part(package: str) -> Path:
    for file in importlib.metadata.distribution(package).files or ():
        if ".zip." in file.name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the Python package {package!r} holds no part of an archive; install it again")


def _check(weights: Path, split: SplitPackage) -> None:
    if not weights.is_file():
        raise FileNotFoundError(f"the parts in {', '.join(split.packages)} hold no {split.folder}/{weights.name}")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != split.sha256:
        raise OSError(
            f"{weights.name} of {', '.join(split.packages)} has the SHA-256 {found}, and {split.sha256} is expected: "
            "these are other weights"
        )
