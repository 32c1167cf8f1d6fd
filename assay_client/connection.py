"""One aiohttp session, bound to one process and one event loop, and one exchange over it with one of the servers."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
from urllib.parse import urlsplit

import aiohttp

from assay_client.discovery import Servers
from assay_client.endpoints import Endpoint
from assay_client.errors import (
    CONNECTION_LOST,
    INCOMPLETE_REPLY,
    NOT_CONNECTED,
    TLS_REFUSED,
    AssayError,
    BadReplyError,
    ConnectionFailedError,
)
from assay_client.failures import error_from_reply
from assay_client.load_report import ASKING, requests_in_flight
from assay_client.retry import is_transient
from assay_client.settings import Settings
from assay_client.silence import STALL_S, Watch
from assay_client.trace_context import trace_headers

CONNECT_TIMEOUT_S = 5.0
IDLE_LIMIT_S = 15.0
"""Well below the server's limit of 75 s, so that a request does not meet a closing connection."""

LIVE_TIMEOUT_S = 5.0
"""For the answer of a server that was silent for a while."""

_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ETIMEDOUT})
_LARGE_BYTES = 2**16

_abandoned: list[Connection] = []
"""Connections that this process cannot close. A forked child must not even free those of its parent: that
would close the transports and so remove the parent's sockets from the epoll set, which both share."""


class Connection:
    """A session with its pool; `slots` bounds the requests in flight, `limits_lock` is for asking once."""

    def __init__(self, settings: Settings) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._servers = Servers(settings.base_urls)
        self._watch = Watch(self._is_silent)
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self.limits_lock = asyncio.Lock()
        headers = {"User-Agent": "assay-client"}
        if settings.api_key is not None:
            headers["Authorization"] = f"Bearer {settings.api_key}"
        self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_LIMIT_S)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The call's deadline bounds the rest; a read may take as long as the queue is.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S, sock_read=None
            ),
        )

    def belongs_here(self) -> bool:
        """Tell whether this process and the running loop are the ones it was made for."""
        return self._pid == os.getpid() and self._loop is asyncio.get_running_loop()

    async def exchange(
        self, method: str, path: str, body: bytes | None, request_id: str, attempt: int, *, expires: float
    ) -> bytes:
        """Send one request to one of the servers and return the body of a 200 reply.

        `expires` is the loop's time at which the caller cancels it: a server that let it come to that has failed.

        Raises:
            AssayError: no reply, or one of another status.
        """
        endpoint, endpoints = await self._servers.choose(), self._servers.endpoints
        began = self._loop.time()
        endpoint.outstanding += 1
        try:
            exchange = self._exchange(endpoint, method, path, body, request_id, attempt)
            content = await self._watch.guard(endpoint, exchange)
        except AssayError as error:
            if error.status == 429:
                endpoints.refused(endpoint, began, self._loop.time(), error.retry_after_s)
            elif isinstance(error, ConnectionFailedError) or is_transient(error, internal_errors=1):
                endpoints.failed(endpoint, began, self._loop.time(), error.retry_after_s)
            else:
                endpoints.answered(endpoint, began)
            raise
        except asyncio.CancelledError:
            if self._loop.time() >= expires:
                endpoints.failed(endpoint, began, self._loop.time())
            raise
        finally:
            endpoint.outstanding -= 1
        endpoints.answered(endpoint, began)
        return content

    @property
    def servers(self) -> int:
        """How many are known."""
        return len(self._servers.endpoints)

    def another_can_be_asked_in(self) -> float | None:
        """Seconds until, after a failure, there is a server to ask that has not just failed; None without others."""
        return self._servers.endpoints.able_in(self._loop.time())

    async def _exchange(
        self, endpoint: Endpoint, method: str, path: str, body: bytes | None, request_id: str, attempt: int
    ) -> bytes:
        headers = {"X-Request-Id": request_id, "X-Assay-Attempt": str(attempt), **ASKING, **trace_headers()}
        if body is not None:
            headers["Content-Type"] = "application/json"
        on_break, began = CONNECTION_LOST, self._loop.time()
        try:
            async with self._session.request(
                method,
                endpoint.url + path,
                # A stream is written in pieces; aiohttp warns that large plain bytes hold up the loop.
                data=body if body is None or len(body) < _LARGE_BYTES else io.BytesIO(body),
                headers=headers | _host_header(endpoint),
                allow_redirects=False,
                server_hostname=_certified_name(endpoint),
            ) as response:
                on_break = INCOMPLETE_REPLY
                in_flight = requests_in_flight(response.headers)
                self._servers.endpoints.replied(endpoint, in_flight, began, self._loop.time())
                content = await response.read()
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConnectionFailedError(f"TLS certificate refused: {error}", code=TLS_REFUSED) from error
        except aiohttp.ClientResponseError as error:
            # Not chained: its repr holds the request's headers and so the key.
            raise BadReplyError(f"the reply is not valid HTTP: {error.message}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _failed(endpoint, error, NOT_CONNECTED) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(endpoint, error, on_break) from error
        # Outside the try: an error of ours may be an OSError too, as DeadlineExceededError is.
        if response.status != 200:
            raise error_from_reply(response.status, response.headers, content)
        return content

    async def _is_silent(self, endpoint: Endpoint) -> bool:
        """Whether nothing at all comes back on a GET /live.

        Whatever comes back is a sign of life, a reset or a refusal too: one that ends, or is full, does that to new
        connections and goes on with its requests. What fails on this side, such as a name that cannot be resolved, says
        nothing of the server.
        """
        if not await self._resolves(endpoint):
            return False
        began = self._loop.time()
        try:
            async with self._session.get(
                f"{endpoint.url}/live",
                headers=_host_header(endpoint),
                allow_redirects=False,
                server_hostname=_certified_name(endpoint),
                timeout=aiohttp.ClientTimeout(total=LIVE_TIMEOUT_S),
            ):
                return False
        except TimeoutError:
            return self._loop.time() - began < LIVE_TIMEOUT_S + STALL_S
        except aiohttp.ClientConnectorError as error:
            return error.errno in _UNREACHABLE
        except (aiohttp.ClientError, OSError):
            return False

    async def _resolves(self, endpoint: Endpoint) -> bool:
        """Whether the host has an address in time: a resolver in trouble may answer nothing at all."""
        parts = urlsplit(endpoint.url)
        try:
            async with asyncio.timeout(LIVE_TIMEOUT_S):
                await self._loop.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except (TimeoutError, OSError, UnicodeError):
            return False
        return True

    def require_idle(self) -> None:
        """Raise `RuntimeError` if its loop is another one and still running: the session cannot leave it."""
        elsewhere = self._loop is not asyncio.get_running_loop() and self._loop.is_running()
        if elsewhere and self._pid == os.getpid():
            raise RuntimeError(
                "an AsyncRewardClient serves one event loop at a time and another one is still using it; "
                "make one for each loop, or use RewardClient"
            )

    async def close(self) -> None:
        """Close the session; where that is not this process's or this loop's to do, only let go of it."""
        self.require_idle()
        own_loop = self._loop is asyncio.get_running_loop() or self._loop.is_closed()
        if own_loop and self._pid == os.getpid():
            self._servers.close()
            self._watch.close()
            await self._session.close()
        else:
            self._session.detach()
            _abandoned.append(self)


def _host_header(endpoint: Endpoint) -> dict[str, str]:
    return {} if endpoint.host is None else {"Host": endpoint.host}


def _certified_name(endpoint: Endpoint) -> str | None:
    """Where not the URL's: a certificate is for the name, not for the address behind it."""
    return None if endpoint.host is None else urlsplit(f"//{endpoint.host}").hostname


def _failed(endpoint: Endpoint, error: Exception, code: str) -> ConnectionFailedError:
    reason = str(error) or type(error).__name__
    return ConnectionFailedError(f"no reply from {endpoint.url}: {reason}", code=code)
