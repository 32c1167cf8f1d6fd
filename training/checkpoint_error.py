"""The error of checkpoints and runs' folders, apart from torch so that messages do not wait for it."""

import shutil
from pathlib import Path

from pydantic import ValidationError


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


def first_complaint(error: ValidationError) -> str:
    """The first thing that a validation found wrong, with its field: a damaged file has dozens, all of one cause."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def first_line(error: BaseException) -> str:
    """The kind of an error and its first line: libraries add pages of advice on themselves.

    A line that ends in a colon only announces the reason, so the next one comes along.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def nearly_full(folder: Path) -> bool:
    """Whether the disk that a folder is on has next to no room left."""
    return shutil.disk_usage(folder.parent).free < 64 * 2**20


def cannot_write(folder: Path, error: BaseException) -> CheckpointError:
    """That a checkpoint in `folder` could not be written, and how much room there is: seldom is it anything else."""
    free = shutil.disk_usage(folder.parent).free / 2**20
    return CheckpointError(
        f"{folder}: cannot be written with {free:.0f} MiB free there ({first_line(error)}); make room, and go on from "
        "the checkpoint before it with --resume"
    )
