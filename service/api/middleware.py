"""What surrounds every request: its id, the body limit, the key check, metrics and the access log.

Pure ASGI: wrappers built on Starlette's BaseHTTPMiddleware hide a client's disconnect.
"""

import asyncio
import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import Context
from service.api.errors import ApiError, error_response
from service.api.keys import Keys
from service.api.load_report import ASKED_BY, HEADER, load_report
from service.observability.logs import request_id
from service.observability.metrics import Metrics
from service.observability.tracing import describe

logger = logging.getLogger("assay.access")

_SAFE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
OPEN_PATHS = frozenset({"/live", "/ready", "/metrics"})
"""Of probes and scrapes: without a key, without a line in the log, and when there are too many connections."""

_NO_REPLY = 499  # the client left before there was one


class Observe:
    """Gives a request its id (the caller's, if it is a plain one), counts it, times it, logs it, and tells the load.

    A request's time begins when its headers are there; its body may be long in coming, or in being read.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._in_flight = 0  # without probes and scrapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counts = scope["path"] not in OPEN_PATHS
        given, wanted = _header(scope, b"x-request-id"), _header(scope, ASKED_BY)
        identity = given if given is not None and _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(identity)
        describe(request_id=identity)
        began = time.monotonic()
        scope.setdefault("state", {})["began"] = began
        status = _NO_REPLY
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def marked_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers.append((b"x-request-id", identity.encode()))
                if wanted is not None and status != 401:  # how busy it is is not for everybody
                    report = load_report(wanted, self._in_flight - counts)
                    headers += [] if report is None else [(HEADER, report)]
            await send(message)

        self._metrics.http_in_flight.inc()
        self._in_flight += counts
        try:
            await self._app(scope, counted_receive, marked_send)
        except asyncio.CancelledError:
            # Only the end of the time to drain cancels a request, and the server would call it a fault of its own.
            self._metrics.rejected.labels("draining").inc()
            self._metrics.faults.labels("draining").inc()
            if status == _NO_REPLY:
                message = "the server is stopping and had no time left for this request; try another one"
                await error_response(503, "draining", message, retry_after=1.0)(scope, counted_receive, marked_send)
        except Exception:
            # Here, inside the request's context, so that log, reply and metrics share its id.
            logger.exception("unexpected error")
            self._metrics.faults.labels("internal").inc()
            if status == _NO_REPLY:
                message = "an unexpected error; the server's log has it under this request id"
                await error_response(500, "internal", message)(scope, counted_receive, marked_send)
        finally:
            self._metrics.http_in_flight.dec()
            self._in_flight -= counts
            seconds = time.monotonic() - began
            # The template, never the path: a label must not carry what callers make up.
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "OPTIONS") else "other"
            self._metrics.http_requests.labels(route, method, str(status)).inc()
            self._metrics.http_duration.labels(route, method).observe(seconds)
            if received:
                self._metrics.request_body_bytes.observe(received)
            if counts:
                fields = {"route": route, "method": method, "status": status, "milliseconds": round(seconds * 1000, 3)}
                logger.info("%s %s %d", method, route, status, extra=fields)
            request_id.reset(token)


class LimitBody:
    """Refuses bodies over the limit, by the bytes that really arrive; a longer announced one at once.

    What all requests hold together is bounded too; see `service.api.bodies`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: Context = scope["app"].state.context
        announced = _header(scope, b"content-length")
        announced_too_much = announced is not None and announced.isdecimal() and int(announced) > self._max_bytes
        received = 0
        share = context.bodies.open()

        async def limited_receive() -> Message:
            nonlocal received
            if not announced_too_much:
                message = await receive()
                size = len(message.get("body", b""))
                received += size
                if received <= self._max_bytes:
                    if size and not share.take(size):
                        raise _too_many(context.bodies.limit)
                    return message
            # Raised inside the application, where the error map turns it into a reply.
            raise ApiError(
                413, "body_too_large", f"the body is larger than {self._max_bytes} bytes; send fewer items at a time"
            )

        try:
            await self._app(scope, limited_receive, send)
        finally:
            share.close()


def _too_many(limit: int) -> ApiError:
    message = f"the bodies of all requests together would be larger than {limit} bytes; try again in a moment"
    return ApiError(503, "too_many_bodies", message, retry_after=1.0)


class RequireKey:
    """Lets only callers with a key reach anything but health and metrics; the default is to deny.

    Goes by the ASGI path, which no Host header can bend (CVE-2026-48746).
    """

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not self._keys.wanted or scope["path"] in OPEN_PATHS or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        self._metrics.rejected.labels("unauthorized").inc()
        response = error_response(401, "unauthorized", "send a valid key as `Authorization: Bearer KEY`")
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        scheme, _, key = (_header(scope, b"authorization") or "").partition(" ")
        valid = self._keys.valid(key.strip())
        return scheme.lower() == "bearer" and valid


def _header(scope: Scope, name: bytes) -> str | None:
    """Value of the first header of that (lower-case) name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
