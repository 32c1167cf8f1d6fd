"""The keys that callers may send, from the settings and from files that are read again when they change."""

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from service.reloading import Reloaded, files
from service.settings import is_sendable


def read_keys(path: Path) -> list[str]:
    """Keys from a file, one a line, or from every file of a folder, as Kubernetes mounts a Secret.

    Empty lines and those that begin with # are no keys, nor are files whose name begins with a dot.

    Raises:
        ValueError: no key, or one that no header could carry; the message names the file and never the key.
        OSError: a file that cannot be read.
    """
    found = []
    for file in files(path):
        for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
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

    Args:
        given: that stay valid.
        path: of those that are read again; None for none.

    Attributes:
        files: what follows the files, if there are any.

    Raises:
        ValueError, OSError: see `read_keys`.
    """

    def __init__(self, given: Sequence[str], path: Path | None = None) -> None:
        self._given = [_digest(key) for key in given]
        self.files: Reloaded[list[bytes]] | None = None
        if path is not None:
            self.files = Reloaded("the keys", [path], lambda: [_digest(key) for key in read_keys(path)])

    @property
    def wanted(self) -> bool:
        """Whether callers need a key at all."""
        return bool(self._given) or self.files is not None

    def valid(self, key: str) -> bool:
        """Whether the key is one of those that are valid now."""
        read = [] if self.files is None else self.files.value
        given = _digest(key)
        matches = [hmac.compare_digest(given, digest) for digest in (*self._given, *read)]
        return any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
