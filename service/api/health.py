"""Probes and metrics: none of them waits for a batch or takes a lock."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.context import State, context_of

probes = APIRouter(tags=["operations"])
scrapes = APIRouter(tags=["operations"])


@probes.head("/live", include_in_schema=False)
@probes.get("/live", summary="Is the engine making progress?")
async def live(request: Request) -> Response:
    """200 while the runner thread is there and not stuck in a batch; idle is alive. 503 means: restart me."""
    context = context_of(request)
    alive = context.alive
    return JSONResponse({"live": alive, "state": context.shown_state}, 200 if alive else 503)


@probes.head("/ready", include_in_schema=False)
@probes.get("/ready", summary="Should I get traffic?")
async def ready(request: Request) -> Response:
    """200 when the model is loaded, warm, not draining, and the engine alive."""
    context = context_of(request)
    is_ready = context.shown_state is State.READY
    headers = {} if is_ready else {"Retry-After": "1"}
    return JSONResponse({"ready": is_ready, "state": context.shown_state}, 200 if is_ready else 503, headers)


@scrapes.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """All metrics in the Prometheus text format."""
    return Response(generate_latest(context_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
