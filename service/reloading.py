"""What is read from files, and read again when they change: keys and certificates, which outlive no night unchanged."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

logger = logging.getLogger("assay.server")

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""Between two looks whether the files have changed."""

_Signature = tuple[tuple[str, int, int, int, int], ...]


class Reloaded(Generic[T]):
    """A value that follows its files.

    A change counts once two looks agree, so that a file that is being written is not taken by halves (write another
    and rename it, to be sure); `follow` looks every second. One that cannot be read is logged, and the value before it
    stays: the server neither opens nor closes by an accident. It is tried again until it can be read.

    Args:
        what: what it is, in the log.
        paths: files, or folders of files; those whose name begins with a dot do not count.
        read: gives the value.

    Attributes:
        on_outcome: told after each change whether it could not be read.

    Raises:
        ValueError, OSError: what `read` raises the first time.
    """

    def __init__(self, what: str, paths: Iterable[Path], read: Callable[[], T]) -> None:
        self._what, self._paths, self._read = what, list(paths), read
        self.on_outcome: Callable[[bool], object] = lambda failed: None
        self._glimpsed = self._taken = _signature(self._paths)
        self._value = read()
        self._failure: str | None = None

    @property
    def value(self) -> T:
        """As the files have it, or had it when they could last be read."""
        return self._value

    def look(self) -> None:
        """See whether the files have changed."""
        try:
            signature = _signature(self._paths)
            if signature == self._taken and self._failure is None:
                return
            if signature != self._glimpsed:
                self._glimpsed = signature
                return
            self._value = self._read()
        except (OSError, ValueError) as error:
            if str(error) != self._failure:
                logger.error("%s cannot be read again, so those before stay valid: %s", self._what, error)
            self._failure = str(error)
            self.on_outcome(True)
        else:
            logger.info("read %s again", self._what)
            self._taken, self._failure = signature, None
            self.on_outcome(False)


async def follow(values: Sequence[Reloaded[Any]]) -> None:
    """Look again and again, also while nobody asks: a revoked key must not be valid for the first who comes."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for value in values:
            value.look()


def files(path: Path) -> list[Path]:
    """The file, or the files of the folder."""
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]


def _signature(paths: Iterable[Path]) -> _Signature:
    """What changes when the files do, also where only a link behind them was turned, as Kubernetes does."""
    states = [(file, file.stat()) for path in paths for file in files(path)]
    return tuple((file.name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file, s in states)
