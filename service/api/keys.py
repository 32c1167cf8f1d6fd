"""The keys that callers may send, from the settings and from files that are read again when they change."""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from service.settings import is_sendable

logger = logging.getLogger("assay.server")

_LOOK_SECONDS = 1.0
"""Between two looks whether the files have changed."""

_Signature = tuple[tuple[str, int, int, int], ...]


def read_keys(path: Path) -> list[str]:
    """Keys from a file, one a line, or from every file of a folder, as Kubernetes mounts a Secret.

    Empty lines and those that begin with # are no keys, nor are files whose name begins with a dot.

    Raises:
        ValueError: no key, or one that no header could carry; the message names the file and never the key.
        OSError: a file that cannot be read.
    """
    found = []
    for file in _files(path):
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if not is_sendable(key):
                raise ValueError(f"{file}:{number}: holds a space or a character that is not plain ASCII")
            found.append(key)
    if not found:
        raise ValueError(f"{path}: holds no key")
    return found


class Keys:
    """Whether a key is one of those that are valid now.

    What is compared are digests of equal length, in constant time, and all of them, so that the time says nothing.
    A file that changes for the worse (unreadable, or without a key) is logged, and the keys before it stay valid: the
    server neither opens nor closes by an accident.

    Args:
        given: that stay valid.
        path: of those that are read again; None for none.

    Raises:
        ValueError, OSError: see `read_keys`.
    """

    def __init__(self, given: Sequence[str], path: Path | None = None) -> None:
        self._given = [_digest(key) for key in given]
        self._path = path
        self._read: list[bytes] = []
        self._seen: _Signature = ()
        self._looked = time.monotonic()
        if path is not None:
            self._seen = _signature(path)
            self._read = [_digest(key) for key in read_keys(path)]

    @property
    def wanted(self) -> bool:
        """Whether callers need a key at all."""
        return bool(self._given) or self._path is not None

    def valid(self, key: str) -> bool:
        """Whether the key is one of those that are valid now."""
        self._look_again()
        given = _digest(key)
        matches = [hmac.compare_digest(given, digest) for digest in (*self._given, *self._read)]
        return any(matches)

    def _look_again(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            signature = _signature(self._path)
            if signature == self._seen:
                return
            self._seen = signature
            self._read = [_digest(key) for key in read_keys(self._path)]
            logger.info("read %d keys again from %s", len(self._read), self._path)
        except (OSError, ValueError) as error:
            logger.error("the keys cannot be read again, so those before stay valid: %s", error)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]


def _signature(path: Path) -> _Signature:
    """What changes when the files do, also where only a link behind them was turned, as Kubernetes does."""
    states = [(file, file.stat()) for file in _files(path)]
    return tuple((file.name, state.st_ino, state.st_size, state.st_mtime_ns) for file, state in states)
