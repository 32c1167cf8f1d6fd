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

_GLANCE_S = 0.05
"""How often a call that waits for the first address looks whether there is one."""

_log = logging.getLogger("assay_client")


class Servers:
    """The endpoints of a list of URLs; names are resolved again now and then, beside the calls. For one event loop.

    Args:
        urls: at least one.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._names = [url for url in urls if url.startswith(PREFIX)]
        self._known: dict[str, list[Endpoint]] = {url: [Endpoint(url)] for url in urls if not url.startswith(PREFIX)}
        self._refresh: asyncio.Task[None] | None = None
        self._due = 0.0
        # Not the module's own generator: a trainer seeds it alike in all workers, and then all would ask the same pod.
        self.endpoints = Endpoints(self._found(), random.SystemRandom())

    async def choose(self) -> Endpoint:
        """The endpoint of the next request. Only the very first resolution is waited for.

        Raises:
            ConnectionFailedError: no name has an address.
        """
        now = asyncio.get_running_loop().time()
        if self._names:
            if self._refresh is None or (self._refresh.done() and now >= self._due):
                self._refresh = asyncio.create_task(self._resolve())
            while not self.endpoints and not self._refresh.done():
                await asyncio.wait([self._refresh], timeout=_GLANCE_S)
            if not self.endpoints:
                raise ConnectionFailedError(f"{', '.join(self._urls)}: no address behind the name", code=NOT_CONNECTED)
        return self.endpoints.choose(now)

    def close(self) -> None:
        """End a resolution that is under way."""
        if self._refresh is not None:
            self._refresh.cancel()

    async def _resolve(self) -> None:
        """What is known of a name stays where no answer comes; one that is slow does not keep the others back."""

        async def one(url: str) -> None:
            if found := await resolve(url):
                self._known[url] = found
                self.endpoints.replace(self._found())

        await asyncio.gather(*map(one, self._names))
        self._due = asyncio.get_running_loop().time() + (INTERVAL_S if self.endpoints else 0.0)

    def _found(self) -> list[Endpoint]:
        return [endpoint for url in self._urls for endpoint in self._known.get(url, ())]


async def resolve(url: str) -> list[Endpoint]:
    """An endpoint for each address of the URL's host; none if it has none at present."""
    parts = urlsplit(url.removeprefix(PREFIX))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    assert parts.hostname is not None  # checked by the settings
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        _log.warning("%s cannot be resolved now: %s", parts.hostname, error)
        return []
    addresses = sorted({str(address[0]) for *_, address in found})
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    return [Endpoint(f"{parts.scheme}://{host}:{port}{parts.path}", parts.netloc) for host in hosts]
