"""Finish a bundle: hash every file, write `bundle.json` last, read the result back as the server would."""

import os
import shutil
import tempfile
from pathlib import Path

from service.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from service.bundle.reader import Bundle, BundleError, read_bundle, sha256_of


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Entry of every file below the folder but the manifest, by relative path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST_NAME
    }


def write_bundle(staging: Path, manifest: Manifest, destination: Path) -> Bundle:
    """Turn a finished staging folder into the bundle at `destination`, all or nothing.

    Args:
        staging: folder on the same file system as `destination`, holding every file but the manifest.
        manifest: with `files` as `list_files(staging)` gives them.
        destination: replaced if it is a bundle or an empty folder.

    Raises:
        BundleError: the result is not a bundle that the server would take, or `destination` is something else
            than a bundle; it is then untouched.
        OSError: a folder cannot be moved; `destination` is then untouched too.
    """
    if os.path.lexists(destination) and not _replaceable(destination):
        raise BundleError(destination, "is there and is not a bundle; move it away or name another folder")
    (staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    read_bundle(staging)
    if destination.exists():
        # Two renames: at no time does the destination hold a mixture of two models.
        old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
        destination.rename(old)
        try:
            staging.rename(destination)
        except OSError:
            old.rename(destination)
            raise
        shutil.rmtree(old)
    else:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(destination)
    return read_bundle(destination)


def _replaceable(destination: Path) -> bool:
    """Whether nothing but a bundle would be lost; what a link points to is not ours to judge."""
    if destination.is_symlink() or not destination.is_dir():
        return False
    return (destination / MANIFEST_NAME).is_file() or not any(destination.iterdir())
