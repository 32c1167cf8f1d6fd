"""The error of checkpoints and runs' folders, apart from torch so that messages do not wait for it."""

import shutil
from pathlib import Path

from training.error_text import first_line


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


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
