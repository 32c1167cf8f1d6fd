"""The servers of a client: those named, and the addresses behind names that stand for several.

A headless Kubernetes service is such a name: it has one address for each pod.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from assay_client.endpoints import Endpoint, Endpoints
from assay_client.errors import NOT_CONNECTED, ConnectionFailedError

PREFIX = "dns+"
"""Before the scheme of a URL whose host stands for several servers: dns+http://reward-headless:8000."""

INTERVAL_S = 10.0
"""How often a name is resolved again, so that new pods are asked and gone ones are not."""

_log = logging.getLogger("assay_client")


class Servers:
    """The endpoints of a list of URLs, resolved again now and then; for one event loop.

    Args:
        urls: at least one.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._named = any(url.startswith(PREFIX) for url in urls)
        self._resolved_at: float | None = None
        self._resolving = asyncio.Lock()
        # Not the module's own generator: a trainer seeds it alike in all workers, and then all would ask the same pod.
        self.endpoints = Endpoints([] if self._named else map(Endpoint, urls), random.SystemRandom())

    async def choose(self) -> Endpoint:
        """The endpoint of the next request.

        Raises:
            ConnectionFailedError: no name has an address.
        """
        if self._named:
            async with self._resolving:
                await self._resolve()
        return self.endpoints.choose(asyncio.get_running_loop().time())

    async def _resolve(self) -> None:
        """What is known stays where no answer comes."""
        now = asyncio.get_running_loop().time()
        if self._resolved_at is not None and now - self._resolved_at < INTERVAL_S:
            return
        found: list[Endpoint] = []
        for url in self._urls:
            found += await resolve(url) if url.startswith(PREFIX) else [Endpoint(url)]
        if found:
            self.endpoints.replace(found)
        elif self._resolved_at is None:
            raise ConnectionFailedError(f"{', '.join(self._urls)}: no address behind the name", code=NOT_CONNECTED)
        self._resolved_at = now


async def resolve(url: str) -> list[Endpoint]:
    """An endpoint for each address of the URL's host; none if it has none at present."""
    parts = urlsplit(url.removeprefix(PREFIX))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    assert parts.hostname is not None  # checked by the settings
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        _log.warning("%s cannot be resolved now: %s", parts.hostname, error)
        return []
    addresses = sorted({str(address[0]) for *_, address in found})
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    return [Endpoint(f"{parts.scheme}://{host}:{port}{parts.path}", parts.netloc) for host in hosts]
