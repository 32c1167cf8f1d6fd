"""assay-serve: settings -> application -> uvicorn."""

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import math
import os
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings.exceptions import SettingsError

from service.api.context import Context, State
from service.api.protocol import limited_protocol
from service.app import build_app, build_operations_app
from service.bundle.reader import BundleError, read_bundle
from service.engine.cpus import usable_cpus
from service.engine.load import Wanted, load_session
from service.engine.session import ProviderError, Resources
from service.listeners import OperationsServer, address_of, bind, listen
from service.observability.logs import configure_logging
from service.observability.tracing import start_tracing
from service.open_files import open_files, raise_open_files
from service.settings import Settings, refuse_unknown_variables
from service.tls import Certificates, read_certificates, tls_protocol

logger = logging.getLogger("assay.server")

_OPERATIONS_CONNECTIONS = 64
"""Probes and scrapers that may be connected at once."""


class Server(uvicorn.Server):
    """uvicorn's server, except that SIGTERM first turns /ready to 503 and only then closes the listener.

    uvicorn alone refuses new connections at once, while balancers still send them (Kludex/uvicorn#2414). It also dies
    of the signal once it has stopped; a server that was told to stop and did so has succeeded, and says so.
    """

    def __init__(self, config: uvicorn.Config, context: Context, operations: socket.socket | None = None) -> None:
        """`operations`: a bound socket for probes and scrapes."""
        super().__init__(config)
        self.context = context
        self.operations = operations
        self._operations: OperationsServer | None = None
        self._operating: asyncio.Task[None] | None = None
        self.address: str | None = None
        self.has_stopped_listening = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First SIGTERM: drain. SIGINT, or a second signal: stop. One more: without waiting for requests."""
        # A handler may interrupt whoever holds the lock of a metric or a log, so the work is the event loop's.
        asyncio.get_running_loop().call_soon_threadsafe(self._on_signal, sig)

    def stop(self) -> None:
        """Close the listener, finish the requests in flight, end."""
        self.should_exit = True

    def _on_signal(self, sig: int) -> None:
        context = self.context
        notice = context.settings.drain_notice_s if sig == signal.SIGTERM else 0.0
        if notice > 0 and context.state in (State.READY, State.WARMING):
            context.state = State.DRAINING
            logger.info("draining: /ready is 503, the listener closes in %g s", notice)
            asyncio.get_running_loop().call_later(notice, self.stop)
            return
        self.force_exit = self.should_exit
        if context.state is not State.FAILED:
            context.state = State.DRAINING
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where.

        Raises:
            OSError: naming the address and the reason.
        """
        for listener in (*(sockets or ()), *([self.operations] if self.operations else ())):
            listen(listener)
        await super().startup(sockets)
        if self.started:
            if self.operations is not None:
                self._operations = _operations_server(self.context)
                self._operating = asyncio.create_task(self._operations.serve(sockets=[self.operations]))
            scheme = "http" if self.context.settings.tls_certificate is None else "https"
            self.address = address_of(self.servers[0].sockets[0], scheme)
            if self.context.state is State.READY:
                self.greet()
            else:
                print(f"\n  Assay listens at {self.address} and warms up; /ready says when it is done", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; probes and scrapes are answered until the last request has ended."""
        self.has_stopped_listening = True
        await super().shutdown(sockets)
        if self._operations is not None and self._operating is not None:
            self._operations.should_exit = True
            await self._operating

    def greet(self) -> None:
        """Say how to call the server, as soon as that works."""
        if self.address is not None:
            operations = self.address if self.operations is None else address_of(self.operations)
            print(_GREETING.format(address=self.address, operations=operations), flush=True)


_GREETING = """
  Assay serves at {address}   docs: {address}/docs   metrics: {operations}/metrics

  curl -s {address}/v1/score -H 'Content-Type: application/json' -d '{{
    "prompt": "How do I boil an egg?",
    "responses": ["Lower it into boiling water: 7 minutes for a soft yolk, 10 for a hard one.",
                  "Eggs come from hens, which were first kept in Asia."]}}'
"""


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 with one clear line on what cannot be served, 2 on bad settings."""
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:], cli_cmd_method_name="")
        refuse_unknown_variables(os.environ)
        return _serve(settings)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            where = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            print(f"assay-serve: {where}{': ' if where else ''}{message}", file=sys.stderr)
        return 2
    except SettingsError as error:
        print(f"assay-serve: {error}", file=sys.stderr)
        return 2
    except (BundleError, ProviderError, ValueError, OSError) as error:
        print(f"assay-serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the server took over the signals
        return 130


def _serve(settings: Settings) -> int:
    configure_logging(settings.log_level, settings.log_json)
    files = raise_open_files()
    connections = settings.connections_for(files)
    certificates = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        certificates = read_certificates(settings.tls_certificate, settings.tls_key)
    with contextlib.ExitStack() as opened:  # first: it is quick, and loading may take minutes
        listener = opened.enter_context(bind(settings.host, settings.port))
        operations = None
        if settings.operations_port is not None:
            operations = opened.enter_context(bind(settings.host, settings.operations_port))
        if settings.tracing:
            opened.callback(start_tracing(importlib.metadata.version("assay")))
        if not (settings.api_keys or settings.api_keys_file) and settings.host not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("open to everybody who reaches %s: no api_keys are set", settings.host)
        began = time.monotonic()
        bundle = read_bundle(settings.bundle, settings.bundle_digest)
        settings.check_against(bundle.manifest.max_tokens)
        wanted = Wanted(
            settings.provider,
            settings.precision,
            settings.allow_fallback,
            Resources(settings.threads or usable_cpus(), settings.max_batch_tokens, settings.gpu_memory_mb),
        )
        loaded = load_session(bundle, wanted)
        app = build_app(settings, bundle, loaded.session, time.monotonic() - began, loaded.gate)
        server = build_server(app, operations, certificates)
        logger.info("at most %d connections, of %d files that may be open", connections, files)
        # All that was loaded stays. A collection that looks through it holds up everything for a tenth of a second.
        gc.collect()
        gc.freeze()
        server.run([listener])
    if server.context.state is State.FAILED:
        raise BundleError(settings.bundle, " ".join(str(server.context.failure).split()))
    return 0 if server.started else 1


def _operations_server(context: Context) -> OperationsServer:
    settings = context.settings
    config = uvicorn.Config(
        build_operations_app(context),
        http=limited_protocol(
            settings.max_header_bytes, settings.receive_timeout_s, _OPERATIONS_CONNECTIONS, context.count_refusal
        ),
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    return OperationsServer(config)


def build_server(
    app: FastAPI, operations: socket.socket | None = None, certificates: Certificates | None = None
) -> Server:
    """The HTTP server for the application, with the limits of its settings.

    Args:
        app: the application.
        operations: a bound socket for probes and scrapes alone.
        certificates: for TLS.
    """
    context: Context = app.state.context
    settings = context.settings
    protocol = limited_protocol(
        settings.max_header_bytes,
        settings.receive_timeout_s,
        settings.connections_for(open_files()),
        context.count_refusal,
        is_stopping=lambda: server.has_stopped_listening,
    )
    if certificates is not None:
        certificates.on_outcome = context.metrics.reload_failed.labels("certificate").set
        context.followed.append(certificates)
    config = uvicorn.Config(
        app,
        # That of TLS is asyncio's other kind of protocol, a BufferedProtocol.
        http=protocol if certificates is None else tls_protocol(protocol, certificates),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        server_header=False,
    )
    server = Server(config, context, operations)
    context.metrics.watch_connections(lambda: len(server.server_state.connections))
    context.on_failed = server.stop
    context.on_ready = server.greet
    return server


if __name__ == "__main__":
    sys.exit(main())
