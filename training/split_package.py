"""Pretrained weights that Python packages carry in parts: a zip archive cut in pieces, one a package."""

import hashlib
import importlib.metadata
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HOME


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

    Raises:
        importlib.metadata.PackageNotFoundError: a package is not installed.
        OSError: its files are not those that are expected, or there is no room.
    """
    kept = Path(HF_HOME) / "assay" / f"{split.folder}-{split.sha256[:12]}"
    if kept.is_dir():
        return kept
    parts = [_part(package) for package in split.packages]
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".joining-", dir=kept.parent))
    try:
        archive = scratch / "archive.zip"
        with archive.open("wb") as whole:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(scratch)
        except zipfile.BadZipFile as error:
            raise OSError(f"the parts in {', '.join(split.packages)} are no archive: {error}") from error
        _check(scratch / split.folder / "model.safetensors", split)
        try:
            (scratch / split.folder).rename(kept)
        except OSError:
            if not kept.is_dir():  # another process was faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return kept


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
