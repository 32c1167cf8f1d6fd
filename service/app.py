"""Build the application and lead it through its life: start, warm up, serve, drain, stop."""

import asyncio
import contextlib
import importlib.metadata
import logging
import math
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request, Response
from fastapi.middleware import Middleware
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig

from service.api import health, v1
from service.api.context import ClientGoneError, Context, State
from service.api.dialects.registry import install_dialects
from service.api.docs import install_docs
from service.api.errors import install_error_handlers
from service.api.keys import Keys
from service.api.middleware import OPEN_PATHS, LimitBody, Observe, RequireKey
from service.bundle.reader import Bundle
from service.engine.gate import Gate
from service.engine.providers import PROVIDERS
from service.engine.runner import Runner
from service.engine.session import EngineError, Session
from service.engine.warmup import warm_up
from service.observability.metrics import Metrics
from service.reloading import follow
from service.scoring.admission import Limits
from service.scoring.cache import ScoreCache
from service.scoring.cost import Attention, CostModel
from service.scoring.scheduler import Scheduler
from service.scoring.scorer import Scorer
from service.settings import Settings

logger = logging.getLogger("assay.server")

_STOP_SECONDS = 2
"""For the batches that still run when all requests have ended: nobody waits for them."""

_TELEMETRY: TelemetryConfig = {
    "exclude": lambda scope: scope["path"] in OPEN_PATHS,
    "operation_spans": False,  # ours say more; see service.observability.tracing
    "metrics": False,  # /metrics has them
    "logs": False,  # they would hold callers' texts
    "auto_configure": False,
}

_DESCRIPTION = """
Scores prompt/response pairs with a reward model. Scores are raw by default and come in the order of the items; every
reply names the model by digest. A failure is always an error, never a number.
"""


def build_app(
    settings: Settings, bundle: Bundle, session: Session, load_seconds: float = 0.0, gate: Gate | None = None
) -> FastAPI:
    """The application over a loaded session.

    Args:
        settings: validated, also against the bundle.
        bundle: what is served.
        session: of that bundle.
        load_seconds: how long loading took, for the metrics.
        gate: what the session's precision was measured to do, where it is not the bundle's own.
    """
    # One process owns the tokenizer's threads; its own pool would only fight over the same processors.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    version = importlib.metadata.version("assay")
    manifest = bundle.manifest
    metrics = Metrics(version)
    metrics.set_model(
        manifest.name, bundle.digest, session.precision, session.provider, manifest.calibration.centre,
        manifest.calibration.scale, manifest.calibration.quantiles,
    )  # fmt: skip
    asked = PROVIDERS.get(settings.provider)
    metrics.fallback.set(asked is not None and asked.full_name != session.provider)
    metrics.model_load.set(load_seconds)
    runner = Runner(session)
    executor = ThreadPoolExecutor(settings.tokenizer_threads, thread_name_prefix="assay-text")
    limits = Limits(
        settings.queue_items,
        settings.queue_tokens_for(manifest.max_tokens),
        settings.max_batch_tokens,
        # What a batch of items of full length takes: the largest that the warm-up tries.
        batch_cells=Attention(manifest.block_queries).cells(settings.max_batch_tokens, manifest.max_tokens),
        batch_seconds=settings.batch_seconds,
    )
    cache = ScoreCache(settings.score_cache_items, bundle.digest) if settings.score_cache_items else None
    scheduler = Scheduler(
        runner,
        manifest.family,
        manifest.block_queries,
        limits,
        metrics,
        cache=cache,
        deterministic=settings.deterministic,
    )
    scorer = Scorer(bundle, scheduler, executor, metrics)
    context = Context(settings, metrics, runner, scorer, version, gate)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        runner.start()
        tasks = [asyncio.create_task(work) for work in (_warm(context), _watch(context), follow(context.followed))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if context.state is not State.FAILED:
                context.state = State.DRAINING
            stopped = await asyncio.to_thread(runner.stop, _STOP_SECONDS)
            scheduler.close()
            executor.shutdown(wait=False, cancel_futures=True)
            if stopped:
                logger.info("stopped")
            else:
                logger.error("the engine is stuck in a batch; leaving it behind")

    keys = Keys([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file)
    if keys.files is not None:
        keys.files.on_outcome = metrics.reload_failed.labels("keys").set
        context.followed.append(keys.files)
    app = FastAPI(
        title="Assay",
        version=version,
        description=_DESCRIPTION,
        lifespan=life,
        openapi_url=None,  # see service.api.docs
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect is built from the Host header, which is the caller's
        telemetry=_TELEMETRY,
        middleware=[
            Middleware(Observe, metrics=metrics),
            Middleware(RequireKey, keys=keys, metrics=metrics),
            Middleware(LimitBody, max_bytes=settings.max_body_bytes),
        ],
    )
    app.state.context = context
    install_error_handlers(app, metrics)

    async def on_client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the status is for log and metrics

    app.add_exception_handler(ClientGoneError, on_client_gone)
    routers = [v1.router, health.probes]
    if settings.operations_port is None:
        routers.append(health.scrapes)
    for router in routers:
        app.include_router(router)
    install_docs(app)
    for path, method in install_dialects(app, settings.dialects, settings.root_dialect):
        metrics.expect_requests(path, method)
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute):
            for method in sorted(route.methods or ()):
                metrics.expect_requests(route.path, method)
    return app


def build_operations_app(context: Context) -> FastAPI:
    """Probes and metrics alone, for a port that callers do not reach."""
    app = FastAPI(
        title="Assay operations", openapi_url=None, redirect_slashes=False, telemetry={"tracing": False, **_TELEMETRY}
    )
    app.state.context = context
    app.include_router(health.probes)
    app.include_router(health.scrapes)
    return app


async def _warm(context: Context) -> None:
    """Warm up off the loop; the server is ready afterwards, or failed for good."""
    context.state = State.WARMING
    began = time.monotonic()
    try:
        samples = await warm_up(context.runner, context.scorer.bundle, context.settings.max_batch_tokens)
    except Exception as error:
        logger.error(
            "the warm-up failed, nothing will be served: %s", error, exc_info=not isinstance(error, EngineError)
        )
        context.fail(f"the warm-up failed, so nothing was served: {error}")
        return
    context.metrics.warmup.set(time.monotonic() - began)
    context.metrics.engine_progress.set_to_current_time()
    attention = Attention(context.scorer.bundle.manifest.block_queries)
    measured = [(s.tokens, attention.cells(s.tokens, s.longest), s.seconds) for s in samples if s.seconds > 0]
    if measured:
        context.scorer.scheduler.use_cost_model(CostModel.fit(measured))
    if context.state is State.WARMING:
        context.state = State.READY
        bundle = context.scorer.bundle
        logger.info(
            "ready: %s (digest %s) on %s in %s, nodes %s",
            bundle.manifest.name,
            bundle.digest[:12],
            context.runner.session.provider,
            context.runner.session.precision,
            context.runner.session.placement.nodes,
        )


async def _watch(context: Context) -> None:
    """End the server when the runner is dead, or has hung long after the probes said so: it cannot score any more.

    Also in a drain, which would otherwise wait for scores that never come, and end as if it had given them.
    """
    settings, runner = context.settings, context.runner
    while runner.alive(settings.stuck_after_s + settings.stuck_exit_s):
        await asyncio.sleep(min(1.0, settings.stuck_exit_s / 4))
    if context.state is State.FAILED:
        return
    died = runner.broken or "the engine died"
    reason = died if not runner.alive(math.inf) else "the engine hangs in a batch"
    logger.error("%s: every request fails and the server ends", reason)
    context.scorer.scheduler.fail_all(reason)
    context.fail(f"{reason}, so the server ended")
