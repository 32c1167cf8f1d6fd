"""assay-serve: settings -> application -> uvicorn."""

import asyncio
import gc
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
from service.app import build_app
from service.bundle.reader import BundleError, read_bundle
from service.engine.cpus import usable_cpus
from service.engine.load import Wanted, load_session
from service.engine.session import ProviderError
from service.observability.logs import configure_logging
from service.open_files import open_files, raise_open_files
from service.settings import Settings, refuse_unknown_variables

logger = logging.getLogger("assay.server")


class Server(uvicorn.Server):
    """uvicorn's server, except that SIGTERM first turns /ready to 503 and only then closes the listener.

    uvicorn alone refuses new connections at once, while balancers still send them (Kludex/uvicorn#2414). It also dies
    of the signal once it has stopped; a server that was told to stop and did so has succeeded, and says so.
    """

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self.context = context
        self.address: str | None = None

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
        for listener in sockets or ():
            _listen(listener)
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            if self.context.state is State.READY:
                self.greet()
            else:
                print(f"\n  Assay listens at {self.address} and warms up; /ready says when it is done", flush=True)

    def greet(self) -> None:
        """Say how to call the server, as soon as that works."""
        if self.address is not None:
            print(_GREETING.format(address=self.address), flush=True)


_GREETING = """
  Assay serves at {address}   docs: {address}/docs   metrics: {address}/metrics

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
    with bind(settings.host, settings.port) as listener:  # first: it is quick, and loading may take minutes
        if not settings.api_keys and settings.host not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("open to everybody who reaches %s: no api_keys are set", settings.host)
        began = time.monotonic()
        bundle = read_bundle(settings.bundle)
        settings.check_against(bundle.manifest.max_tokens)
        wanted = Wanted(
            settings.provider,
            settings.precision,
            settings.allow_fallback,
            settings.threads or usable_cpus(),
            settings.max_batch_tokens,
        )
        loaded = load_session(bundle, wanted)
        server = build_server(build_app(settings, bundle, loaded.session, time.monotonic() - began, loaded.gate))
        logger.info("at most %d connections, of %d files that may be open", connections, files)
        # All that was loaded stays. A collection that looks through it holds up everything for a tenth of a second.
        gc.collect()
        gc.freeze()
        server.run([listener])
    if server.context.state is State.FAILED:
        raise BundleError(settings.bundle, " ".join(str(server.context.failure).split()))
    return 0 if server.started else 1


def build_server(app: FastAPI) -> Server:
    """The HTTP server for the application, with the limits of its settings."""
    context: Context = app.state.context
    settings = context.settings
    config = uvicorn.Config(
        app,
        http=limited_protocol(
            settings.max_header_bytes,
            settings.receive_timeout_s,
            settings.connections_for(open_files()),
            context.count_refusal,
        ),
        loop="uvloop",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
        server_header=False,
    )
    server = Server(config, context)
    context.metrics.watch_connections(lambda: len(server.server_state.connections))
    context.on_failed = server.stop
    context.on_ready = server.greet
    return server


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet.

    Raises:
        OSError: naming the address and the reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return listener


def _listen(listener: socket.socket) -> None:
    """Listen, where two servers that were started together have both bound the address: the later one fails here.

    uvloop would go on without a listener.
    """
    try:
        listener.listen()
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port")


if __name__ == "__main__":
    sys.exit(main())
