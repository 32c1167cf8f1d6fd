"""A server for the tests of programs that ask for rewards: the native API over real HTTP, scores by a function.

with FakeRewardServer(lambda prompt, response: len(response)) as server:
    trainer = MyTrainer(reward_url=server.url)
    server.refuse(503, times=2, retry_after=1)  # what a busy or restarting server does
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from assay_client.types import Prompt

Score = Callable[[Prompt, str], float]

DIGEST = "0" * 64
_CODES = {
    401: "unauthorized", 404: "not_found", 408: "request_timeout", 409: "model_mismatch", 413: "too_many_items",
    429: "queue_full", 500: "internal", 503: "not_ready", 504: "deadline_exceeded",
}  # fmt: skip
_SCALES = ("raw", "centred", "standardised", "probability")


@dataclass(frozen=True, slots=True)
class Request:
    """A scoring request as it came: path, headers and decoded body. A key in the headers is not shown."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: str
    retry_after: float | None


class FakeRewardServer:
    """Answers `/v1/score`, `/v1/compare`, `/v1/rank`, `/v1/model`, `/ready` and `/live` on a port of the loopback.

    For use as a context manager; it runs in a thread, so that programs with and without an event loop can call it.
    All its methods may be called from any thread while it runs.

    Args:
        score: the raw score of a response. Scales other than probability return it as it is. An exception in it
            becomes the server's own failure (500). It is called in a thread of its own for each request.
        name, digest: of the model it pretends to serve.
        items_per_request: the limit it tells, by which clients split; more items are refused (413).
    """

    def __init__(self, score: Score, *, name: str = "fake", digest: str = DIGEST, items_per_request: int = 256) -> None:
        self._score = score
        self.name = name
        self.digest = digest
        self._limit = items_per_request
        self._requests: list[Request] = []
        self._refusals: list[_Refusal] = []
        self._guard = threading.Lock()
        self._port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens; the same after `go_away` and `come_back`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> list[Request]:
        """The scoring requests so far, those that were refused included."""
        with self._guard:
            return list(self._requests)

    def refuse(self, status: int, *, times: int = 1, code: str | None = None, retry_after: float | None = None) -> None:
        """Answer the next `times` scoring requests with an error of the native API."""
        with self._guard:
            self._refusals += [_Refusal(status, code or _CODES.get(status, "invalid"), retry_after)] * times

    def serve(self, score: Score | None = None, *, digest: str) -> None:
        """From now on another model, as after a roll-out."""
        with self._guard:
            self._score, self.digest = score or self._score, digest

    def go_away(self) -> None:
        """Refuse connections, and break those that are open, until `come_back`."""
        self._call(self._stop())

    def come_back(self) -> None:
        """Listen again on the same port."""
        self._call(self._start())

    def __enter__(self) -> Self:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=_run_loop, args=(started,), name="fake-reward-server", daemon=True)
        self._thread.start()
        self._loop = started.result()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop = None

    def _call(self, work: Any) -> None:
        if self._loop is None:
            work.close()
            raise RuntimeError("the server does not run; use it as a context manager")
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        if self._runner is not None:
            return
        application = web.Application(client_max_size=2**28)
        for path in ("/v1/score", "/v1/compare", "/v1/rank"):
            application.router.add_post(path, self._answer)
        application.router.add_get("/v1/model", self._model)
        application.router.add_get("/ready", _status)
        application.router.add_get("/live", _status)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _model(self, request: web.Request) -> web.Response:
        limits = {"body_bytes": 2**27, "items_per_request": self._limit, "tokens_per_item": 4096}
        return web.json_response(
            {
                "model": {"name": self.name, "digest": self.digest},
                "limits": limits,
                "family": "fake",
                "precision": "none",
            }
        )

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        error = partial(_error, request)
        with self._guard:
            self._requests.append(Request(request.path, dict(request.headers), body))
            refusal = self._refusals.pop(0) if self._refusals else None
            score, digest = self._score, self.digest
        if refusal is not None:
            headers = {} if refusal.retry_after is None else {"Retry-After": f"{math.ceil(refusal.retry_after)}"}
            return error(
                refusal.status, refusal.code, f"refused with {refusal.status}, as the test asked", None, headers
            )
        if body.get("model_digest") not in (None, digest):
            return error(409, "model_mismatch", f"this server runs {digest}, not {body['model_digest']}")
        pairs = _pairs(request.path, body)
        if not pairs or body.get("scale", "raw") not in _SCALES:
            return error(422, "invalid", "no items, or an unknown scale")
        if len(pairs) > self._limit:
            return error(413, "too_many_items", f"{len(pairs)} items; at most {self._limit} in one request")
        for name, prompt, response in pairs:
            if not (body.get("allow_empty") or (prompt and response)):
                return error(422, "empty_text", f"{name}: a text is empty; allow_empty scores it", name)
        try:
            # In a thread, so that the function may take its time, or make this server go away.
            scores = await asyncio.to_thread(lambda: [float(score(prompt, text)) for _, prompt, text in pairs])
        except Exception as failure:
            return error(500, "internal", f"the test's score function raised {failure!r}")
        if not all(map(math.isfinite, scores)):
            return error(500, "nonfinite_score", "the test's score function gave NaN or infinity")
        reply = self._reply(request.path, body, scores, digest)
        return web.Response(text=json.dumps(reply), content_type="application/json")

    def _reply(self, path: str, body: dict[str, Any], scores: list[float], digest: str) -> dict[str, Any]:
        count = len(scores)
        envelope: dict[str, Any] = {
            "model": {"name": self.name, "digest": digest},
            "details": [{"tokens": 1, "truncated": False, "tokens_removed": 0}] * count,
            "usage": {"items": count, "tokens": count, "computed_tokens": count},
            "timing": {"total_ms": 0.0, "tokenize_ms": 0.0, "queue_ms": 0.0, "infer_ms": 0.0},
        }
        if path == "/v1/compare":
            return envelope | {"comparisons": [_comparison(*scores[at : at + 2]) for at in range(0, count, 2)]}
        if path == "/v1/rank":
            order = sorted(range(count), key=lambda place: -scores[place])
            wins = [[_sigmoid(mine - theirs) for theirs in scores] for mine in scores]
            return envelope | {"scores": scores, "order": order, "win_probabilities": wins}
        scale = body.get("scale", "raw")
        return envelope | {
            "scores": [_sigmoid(s) for s in scores] if scale == "probability" else scores,
            "scale": scale,
        }


def _run_loop(started: Future[asyncio.AbstractEventLoop]) -> None:
    loop = asyncio.new_event_loop()
    loop.call_soon(started.set_result, loop)
    loop.run_forever()
    loop.close()


def _pairs(path: str, body: Mapping[str, Any]) -> list[tuple[str, Prompt, str]]:
    """Name in the request, prompt and response of each item."""
    if path == "/v1/compare":
        return [
            (f"comparisons.{place}.{which}", item["prompt"], item[which])
            for place, item in enumerate(body.get("comparisons", ()))
            for which in ("response_a", "response_b")
        ]
    if "pairs" in body:
        named = enumerate(body["pairs"])
        return [(f"pairs.{place}.response", pair["prompt"], pair["response"]) for place, pair in named]
    return [(f"responses.{place}", body["prompt"], text) for place, text in enumerate(body.get("responses", ()))]


def _comparison(a: float, b: float) -> dict[str, Any]:
    preferred = "tie" if a == b else "a" if a > b else "b"
    return {"preferred": preferred, "probability": _sigmoid(a - b), "margin": a - b, "score_a": a, "score_b": b}


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _error(
    request: web.Request,
    status: int,
    code: str,
    message: str,
    field: str | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    error = {"code": code, "message": message, "request_id": request.headers.get("X-Request-Id", "fake")}
    error |= {} if field is None else {"field": field}
    return web.json_response({"error": error}, status=status, headers=headers)


async def _status(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})
