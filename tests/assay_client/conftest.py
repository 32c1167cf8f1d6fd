"""A scriptable server on the loopback interface that speaks the native API."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from assay_client import retry

DIGEST = "sha256:one"


@dataclass
class Seen:
    """One request as the server received it."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    peer: object


Step = Callable[[web.Request, dict[str, Any]], Any]
"""What the server does with one request: returns a document, a response, or an awaitable of either."""


def value_of(text: str) -> float:
    """Score of a text: the number after its first dash, so that a test can tell whose score it got."""
    return float(text.split("-", 1)[1])


def details(count: int) -> list[dict[str, Any]]:
    return [{"tokens": 3, "truncated": False, "tokens_removed": 0}] * count


def envelope(count: int, digest: str = DIGEST) -> dict[str, Any]:
    return {
        "model": {"name": "toy", "digest": digest},
        "details": details(count),
        "usage": {"items": count, "tokens": 3 * count, "computed_tokens": 2 * count},
        "timing": {"total_ms": 5.0, "tokenize_ms": 1, "queue_ms": 1.5, "infer_ms": 2.0},
    }


def answer(path: str, body: dict[str, Any], digest: str = DIGEST) -> dict[str, Any]:
    """The correct reply."""
    if path == "/v1/compare":
        rows = []
        for item in body["comparisons"]:
            a, b = value_of(item["response_a"]), value_of(item["response_b"])
            preferred, probability = ("tie", 0.5) if a == b else ("a", 0.9) if a > b else ("b", 0.1)
            row = {"preferred": preferred, "probability": probability, "margin": a - b}
            rows.append(row | {"score_a": a, "score_b": b})
        return envelope(2 * len(rows), digest) | {"comparisons": rows}
    texts = body["responses"] if "responses" in body else [pair["response"] for pair in body["pairs"]]
    scores = [value_of(text) for text in texts]
    reply = envelope(len(scores), digest) | {"scores": scores}
    if path == "/v1/rank":
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return reply | {"order": order, "win_probabilities": [[0.5] * len(scores) for _ in scores]}
    return reply | {"scale": body.get("scale", "raw")}


def refusal(
    status: int, code: str, *, field: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> web.Response:
    error = {
        "code": code,
        "message": f"{field or 'it'} was refused",
        "field": field,
        "request_id": "r",
        **more,
    }
    return web.json_response({"error": error}, status=status, headers=headers)


def refuse(status: int, code: str, **more: Any) -> Step:
    return lambda request, body: refusal(status, code, **more)


def reset(request: web.Request, body: dict[str, Any]) -> web.Response:
    """Break the connection without a reply."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@dataclass
class FakeServer:
    """Answers correctly unless told otherwise; `script` holds what to do with the next requests, in order."""

    url: str = ""
    script: list[Step] = field(default_factory=list)
    always: Step | None = None
    ready: list[int] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=lambda: {"body_bytes": 100_000, "items_per_request": 64})
    seen: list[Seen] = field(default_factory=list)
    model_questions: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0

    # Test modules cannot import this file, so the fixture carries what they need of it.
    answer = staticmethod(answer)
    refuse = staticmethod(refuse)
    reset = staticmethod(reset)
    value_of = staticmethod(value_of)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        peer = request.transport and request.transport.get_extra_info("peername")
        self.seen.append(Seen(request.path, request.headers, body, peer))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            step = self.script.pop(0) if self.script else self.always
            reply = answer(request.path, body) if step is None else step(request, body)
            if asyncio.iscoroutine(reply):
                reply = await reply
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        if isinstance(reply, web.StreamResponse):
            return reply
        return web.Response(text=json.dumps(reply), content_type="application/json")

    async def handle_model(self, request: web.Request) -> web.Response:
        self.model_questions += 1
        return web.json_response(
            {
                "model": {"name": "toy", "digest": DIGEST},
                "limits": self.limits,
                "family": "causal",
                "new": [1],
            }
        )

    async def handle_ready(self, request: web.Request) -> web.Response:
        return web.Response(status=self.ready.pop(0) if self.ready else 200)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/{name}", self.handle)
        app.router.add_get("/v1/model", self.handle_model)
        app.router.add_get("/ready", self.handle_ready)
        return app


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A running fake server, in its own thread so that blocking clients can be tested too."""
    fake = FakeServer()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(fake.application(), handler_cancellation=True, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.url = f"http://{host}:{port}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield fake
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, a fresh retry budget, and nothing from the environment."""
    monkeypatch.setattr(retry, "BACKOFF_BASE_S", 0.01)
    monkeypatch.setattr(retry, "_process_budget", retry.RetryBudget())
    monkeypatch.delenv("ASSAY_URL", raising=False)
    monkeypatch.delenv("ASSAY_API_KEY", raising=False)
