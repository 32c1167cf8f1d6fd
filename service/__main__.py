"""assay-serve: settings -> application -> uvicorn."""

import asyncio
import logging
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings.exceptions import SettingsError

from service.api.context import Context, State
from service.api.protocol import limited_protocol
from service.app import build_app
from service.bundle.reader import BundleError, read_bundle
from service.engine.cpus import usable_cpus
from service.engine.session import OnnxSession, ProviderError
from service.observability.logs import configure_logging
from service.settings import Settings

logger = logging.getLogger("assay.server")


class Server(uvicorn.Server):
    """uvicorn's server, except that SIGTERM first turns /ready to 503 and only then closes the listener.

    uvicorn alone refuses new connections at once, while balancers still send them (Kludex/uvicorn#2414).
    """

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First SIGTERM: drain. SIGINT, or a second signal: at once."""
        notice = self._context.settings.drain_notice_s
        if sig == signal.SIGTERM and notice > 0 and self._context.state in (State.READY, State.WARMING):
            self._context.state = State.DRAINING
            logger.info("draining: /ready is 503, the listener closes in %g s", notice)
            asyncio.get_running_loop().call_later(notice, super().handle_exit, sig, None)
            return
        self._context.state = State.DRAINING
        super().handle_exit(sig, frame)

    def stop_now(self) -> None:
        """Stop: the engine cannot serve."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            _greet(host, port)


def _greet(host: str, port: int) -> None:
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    print(
        f"\n  Assay serves at {address}   docs: {address}/docs   metrics: {address}/metrics\n\n"
        f"  curl -s {address}/v1/score -H 'Content-Type: application/json' -d '{{\n"
        '    "prompt": "How do I keep basil alive on a windowsill?",\n'
        '    "responses": ["Give it sun and water it when the top of the soil is dry.", "Plants are green."]}\'\n',
        flush=True,
    )


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 with one clear line on what cannot be served, 2 on bad settings."""
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:], cli_cmd_method_name="")
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            where = ".".join(map(str, problem["loc"]))
            print(f"assay-serve: {where}{': ' if where else ''}{problem['msg']}", file=sys.stderr)
        return 2
    except SettingsError as error:
        print(f"assay-serve: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level, settings.log_json)
    began = time.monotonic()
    try:
        bundle = read_bundle(settings.bundle)
        settings.check_against(bundle.manifest.max_tokens)
        session = OnnxSession(bundle, settings.provider, settings.threads or usable_cpus())
    except (BundleError, ProviderError, ValueError, OSError) as error:
        print(f"assay-serve: {error}", file=sys.stderr)
        return 1
    app = build_app(settings, bundle, session, time.monotonic() - began)
    context: Context = app.state.context
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=limited_protocol(settings.max_header_bytes, settings.receive_timeout_s, context.count_refusal),
        loop="uvloop",
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        server_header=False,
    )
    server = Server(config, context)
    context.on_failed = server.stop_now
    try:
        server.run()
    except KeyboardInterrupt:
        return 0
    return 0 if server.started and context.state is not State.FAILED else 1


if __name__ == "__main__":
    sys.exit(main())
