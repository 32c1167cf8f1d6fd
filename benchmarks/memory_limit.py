"""A bound of memory for a process and all that it starts, as a container sets it: a control group of Linux."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_MOUNTED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryLimit:
    """A control group, of version 1 or 2.

    Attributes:
        folder: of the group.
        anonymous_name: of the line of memory.stat that counts memory which is no page of a file.
    """

    folder: Path
    anonymous_name: str

    def join(self) -> None:
        """Put this process into the group, and with it those that it will start."""
        (self.folder / "cgroup.procs").write_text("0", encoding="utf-8")

    def anonymous_bytes(self) -> int:
        """Memory of the whole group that is no page of a file, which could be taken back."""
        lines = (self.folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == self.anonymous_name)


@contextmanager
def memory_limit(name: str, bound: int) -> Iterator[MemoryLimit | None]:
    """A group that has at most `bound` bytes, pages of files included; none where this process may not make one.

    That takes root, and a system whose swap can be kept out of it. What is still in the group at the end is killed.
    """
    first = (_MOUNTED / "memory").is_dir()
    folder = (_MOUNTED / "memory" if first else _MOUNTED) / name
    limit = MemoryLimit(folder, "total_rss" if first else "anon")
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        yield limit if _bounded(folder, bound, first) else None
    finally:
        _remove(folder)


def _bounded(folder: Path, bound: int, first: bool) -> bool:
    """Set the bounds; whether they hold."""
    try:
        if first:
            (folder / "memory.limit_in_bytes").write_text(str(bound), encoding="utf-8")
            (folder / "memory.swappiness").write_text("0", encoding="utf-8")
        else:  # not there where the group above does not hand memory on
            (folder / "memory.max").write_text(str(bound), encoding="utf-8")
            (folder / "memory.swap.max").write_text("0", encoding="utf-8")
    except OSError:
        return False
    return True


def _remove(folder: Path) -> None:
    """The group, once what is in it has ended."""
    for _ in range(100):
        for process in (folder / "cgroup.procs").read_text(encoding="utf-8").split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:  # those that were killed take a moment to go
            time.sleep(0.05)
        else:
            return
