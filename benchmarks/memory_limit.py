"""A bound of memory for a process and all that it starts, as a container sets it: a control group of Linux."""

from collections.abc import Iterator
from contextlib import contextmanager
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

    What is in it must have ended when the context does.
    """
    first = (_MOUNTED / "memory").is_dir()
    folder = (_MOUNTED / "memory" if first else _MOUNTED) / name
    limit = folder / ("memory.limit_in_bytes" if first else "memory.max")
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        if not limit.is_file():  # version 2, and the group above does not hand memory on
            yield None
            return
        limit.write_text(str(bound), encoding="utf-8")
        yield MemoryLimit(folder, "total_rss" if first else "anon")
    finally:
        folder.rmdir()
