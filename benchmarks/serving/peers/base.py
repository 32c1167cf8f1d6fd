"""What a peer has to know: how to be installed, started and asked, and how its replies become scores."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.serving.models import ModelFolders
from benchmarks.serving.peers.environments import versions
from benchmarks.serving.rendering import Item


@dataclass(frozen=True)
class Call:
    """One POST of JSON.

    Attributes:
        path: of the URL.
        body: encoded before any clock runs.
    """

    path: str
    body: bytes

    @classmethod
    def of(cls, path: str, content: Mapping[str, Any]) -> "Call":
        """The call with its content encoded."""
        return cls(path, json.dumps(content, ensure_ascii=False).encode())


class ReplyError(ValueError):
    """A peer's reply does not hold the scores that were asked for."""


class Peer(ABC):
    """One server in the race.

    Attributes:
        name: as given to `--peers`.
        ready_path: answers 200 when the server may be asked.
        packages: whose versions go on record.
    """

    name: ClassVar[str]
    ready_path: ClassVar[str] = "/health"
    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """The name in results; differs from `name` where a peer has settings."""
        return self.name

    @abstractmethod
    def install(self) -> Path:
        """The peer's environment, installed if need be."""

    @abstractmethod
    def command(self, model: ModelFolders, port: int) -> list[str]:
        """What starts the server on a port of the loopback."""

    def variables(self) -> dict[str, str]:
        """Environment variables that it needs beside the common ones."""
        return {}

    def same_function(self, model: ModelFolders) -> bool:
        """Whether its scores must agree with ours on this model."""
        return True

    def serves(self, model: ModelFolders) -> bool:
        """Whether it can serve this model at all."""
        return True

    @abstractmethod
    def calls(self, items: Sequence[Item]) -> list[Call]:
        """The calls that one request becomes; they are made one after the other."""

    @abstractmethod
    def scores(self, replies: Sequence[Any]) -> list[float]:
        """The scores of the request's items in order, out of the decoded replies.

        Raises:
            KeyError, TypeError, IndexError, ReplyError: a reply of another form.
        """

    def versions(self) -> dict[str, str]:
        """Versions of what decides its speed."""
        return versions(self.install(), self.packages)
