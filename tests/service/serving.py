"""The application on a real socket, in a thread of the test's process."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from service.__main__ import Server, build_server
from service.api.context import Context, State
from service.app import build_app
from service.bundle.reader import Bundle
from service.engine.providers import PROVIDERS
from service.engine.session import Resources, Session
from service.listeners import bind
from service.settings import Settings
from tests.service.doubles import PATIENCE

JSON = {"Content-Type": "application/json"}


@dataclass
class Reply:
    """One HTTP reply; header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


@dataclass
class Served:
    """A running server."""

    context: Context
    server: Server
    port: int

    def request(self, method: str, path: str, body: bytes | str | None = None, headers: Any = None) -> Reply:
        """One request on a connection of its own, headers as given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            content = body.encode() if isinstance(body, str) else body
            connection.request(method, path, content, headers or {})
            return read_reply(connection)

    def get(self, path: str, headers: Any = None) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: Any = None) -> Reply:
        """A JSON request; bytes and text go as they are."""
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.request("POST", path, content, JSON | (headers or {}))

    def score(self, *responses: str, **options: Any) -> Reply:
        return self.post("/v1/score", {"prompt": "p", "responses": responses, **options})

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def metric(self, name: str, **labels: str) -> float:
        """Value of one sample as it would be scraped now."""
        value = self.context.metrics.registry.get_sample_value(name, labels)
        assert value is not None, (name, labels)
        return value

    def rejected(self) -> dict[str, float]:
        """Rejections by reason, without those that never happened."""
        samples = next(iter(self.context.metrics.rejected.collect())).samples
        return {sample.labels["reason"]: sample.value for sample in samples if sample.value}

    def until(self, name: str, value: float, **labels: str) -> None:
        """Poll until the metric has the value."""
        deadline, registry = time.monotonic() + PATIENCE, self.context.metrics.registry
        while (current := registry.get_sample_value(name, labels) or 0) != value:
            assert time.monotonic() < deadline, f"{name} is {current}, never {value}"
            time.sleep(0.002)


@contextlib.contextmanager
def serving(bundle: Bundle, session: Session | None = None, **settings: Any) -> Iterator[Served]:
    """Serve until the end of the block."""
    configuration = Settings(bundle=bundle.folder, port=0, **settings)
    app = build_app(configuration, bundle, session or PROVIDERS["cpu"].open(bundle, "fp32", Resources()))
    server = build_server(app)
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        context: Context = app.state.context
        try:
            deadline = time.monotonic() + PATIENCE
            while not server.started or context.state is not State.READY:
                assert thread.is_alive()
                assert time.monotonic() < deadline, context.state
                time.sleep(0.002)
            yield Served(context, server, port)
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def in_background(call: Callable[..., Reply], *arguments: Any) -> Callable[[], Reply]:
    """Start a request; gives a function that waits for its reply."""
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(call(*arguments)), daemon=True)
    thread.start()

    def wait() -> Reply:
        thread.join(PATIENCE)
        return replies[0]

    return wait


def read_reply(connection: http.client.HTTPConnection) -> Reply:
    """The next reply on a connection."""
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def read_raw(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)
