"""Every metric of the server, in one place; all of them exist at zero before traffic."""

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from service.observability.bulk_histogram import BulkHistogram

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter and histogram, which nothing here reads

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_POWERS_OF_TWO = tuple(2**n for n in range(12))
_TOKENS = tuple(2**n for n in range(18))
_BODY_BYTES = tuple(1024 * 4**n for n in range(9))

REJECTIONS = (
    "queue_full", "token_budget", "queue_time", "deadline", "body_too_large", "too_many_items", "too_many_tokens",
    "invalid", "invalid_json", "empty_text", "unauthorized", "model_mismatch", "not_found", "method", "media_type",
    "headers", "slow_request", "invalid_http", "too_many_bodies", "too_many_connections", "not_ready", "draining",
)  # fmt: skip
FAULTS = ("nonfinite_score", "engine_failed", "internal", "draining")
"""Codes of errors that are the server's: what an error budget counts. The last: accepted, and given up in a drain."""
RELOADED = ("keys", "certificate")
OUTCOMES = ("ok", "truncated", "invalid", "nonfinite", "expired", "cancelled", "error")
STAGES = ("parse", "tokenize", "queue", "infer", "serialize")
ENGINE_ERRORS = ("runtime", "oom", "nonfinite")
STATES = ("starting", "warming", "ready", "draining", "wedged", "failed")


class Metrics:
    """The metrics of one server process, on a registry of its own.

    Args:
        version: of the package.
        seconds: bucket bounds of every duration, in seconds.
    """

    def __init__(self, version: str, seconds: Sequence[float] = SECONDS) -> None:
        self.registry = r = CollectorRegistry()
        self._make_durations(seconds)
        # HTTP
        self.http_requests = Counter(
            "assay_http_requests", "Finished requests.", ("route", "method", "status"), registry=r
        )
        self.http_in_flight = Gauge("assay_http_requests_in_flight", "Requests being handled.", registry=r)
        self.connections = Gauge("assay_http_connections", "Open connections.", registry=r)
        self.request_samples = Histogram(
            "assay_request_samples", "Items of an accepted request.", buckets=_POWERS_OF_TWO, registry=r
        )
        self.request_body_bytes = Histogram(
            "assay_request_body_bytes", "Size of request bodies.", buckets=_BODY_BYTES, registry=r
        )
        self.bodies_held = Gauge(
            "assay_request_bodies_held_bytes", "Bytes of request bodies held over all connections.", registry=r
        )
        self.rejected = Counter("assay_requests_rejected", "Requests refused, by reason.", ("reason",), registry=r)
        self.faults = Counter(
            "assay_request_faults", "Requests that failed by a fault of the server, by code.", ("code",), registry=r
        )
        self.reload_failed = Gauge(
            "assay_reload_failed", "1 while a changed file cannot be read, so that what was read before still holds.",
            ("what",), registry=r,
        )  # fmt: skip
        # Work
        self.samples = Counter("assay_samples", "Items, by what became of them.", ("model", "outcome"), registry=r)
        self.queue_samples = Gauge(
            "assay_queue_samples", "Items admitted that wait, or that run and were then asked for again.", registry=r
        )
        self.queue_tokens = Gauge("assay_queue_tokens", "Tokens admitted and not yet in a batch.", registry=r)
        self.queue_oldest = Gauge("assay_queue_oldest_age_seconds", "Age of the oldest waiting request.", registry=r)
        self.queue_limit = Gauge("assay_queue_limit_samples", "Items that may wait.", registry=r)
        self.inflight_samples = Gauge("assay_inflight_samples", "Items in planned or running batches.", registry=r)
        self.peak_samples = Gauge(
            "assay_peak_samples", "Most items that waited or ran at once within the last minute.", registry=r
        )
        self.saturation = Gauge(
            "assay_saturation_ratio", "How full the queue is, by items or tokens, whichever is fuller.", registry=r
        )
        self.batch_samples = Histogram("assay_batch_samples", "Items of a batch.", buckets=_POWERS_OF_TWO, registry=r)
        self.batch_tokens = Histogram("assay_batch_tokens", "Tokens computed in a batch.", buckets=_TOKENS, registry=r)
        self.tokens = Counter(
            "assay_tokens",
            "Tokens computed (real), spared by sharing or cache (shared); added in attention or all else (padding).",
            ("kind",), registry=r,
        )  # fmt: skip
        self.attention_cells = Counter(
            "assay_attention_cells",
            "Pairs of query and key that attention computed: those that are needed, and padding.",
            ("kind",), registry=r,
        )  # fmt: skip
        self.cost_scale = Gauge(
            "assay_cost_model_scale", "Measured over predicted seconds of batches, as corrected so far.", registry=r
        )
        self.cost_scale.set(1)
        self.cache_hits = Counter("assay_score_cache_hits", "Items whose score came from the cache.", registry=r)
        self.input_tokens = BulkHistogram("assay_input_tokens", "Tokens of an item.", _TOKENS, r)
        self.nonfinite = Counter("assay_scores_nonfinite", "Scores that were NaN or infinite.", registry=r)
        self.score: BulkHistogram | None = None
        self.score_reference = Gauge(
            "assay_score_reference", "Raw scores of the bundle's held-out responses, by quantile.",
            ("revision", "quantile"), registry=r,
        )  # fmt: skip
        self.score_reference_mean = Gauge("assay_score_reference_mean", "Their mean.", ("revision",), registry=r)
        self.score_reference_stddev = Gauge(
            "assay_score_reference_stddev", "Their standard deviation.", ("revision",), registry=r
        )
        # Engine
        self.engine_progress = Gauge(
            "assay_engine_last_progress_timestamp_seconds", "Unix time at which a batch last ended.", registry=r
        )
        self.engine_batches = Counter("assay_engine_batches", "Batches run.", registry=r)
        self.engine_errors = Counter("assay_engine_errors", "Failures of the engine.", ("kind",), registry=r)
        self.engine_state = Gauge("assay_engine_state", "1 for the state the server is in.", ("state",), registry=r)
        self.fallback = Gauge(
            "assay_provider_fallback", "1 while another provider runs the graph than the one that was asked for.",
            registry=r,
        )  # fmt: skip
        self.model_load = Gauge("assay_model_load_seconds", "Time it took to load the model.", registry=r)
        self.warmup = Gauge("assay_warmup_seconds", "Time it took to warm up.", registry=r)
        self.model_info = Info("assay_model", "The model that is served and what it runs on.", registry=r)
        Info("assay_build", "The server's version.", registry=r).info({"version": version})
        ProcessCollector(registry=r)  # memory, processor time, open files, and when the process began
        self._at_zero()

    def _at_zero(self) -> None:
        """Create every labelled series whose labels are known; alerts and scalers must not meet an empty answer."""
        for reason in REJECTIONS:
            self.rejected.labels(reason)
        for code in FAULTS:
            self.faults.labels(code)
        for what in RELOADED:
            self.reload_failed.labels(what)
        for kind in ("real", "shared", "padding"):
            self.tokens.labels(kind)
        for kind in ("needed", "padding"):
            self.attention_cells.labels(kind)
        for kind in ENGINE_ERRORS:
            self.engine_errors.labels(kind)
        self.watch_state(lambda: STATES[0])

    def _make_durations(self, seconds: Sequence[float]) -> None:
        self.http_duration = Histogram(
            "assay_http_request_duration_seconds", "From the end of the headers to the end of the reply.",
            ("route", "method"), buckets=seconds, registry=self.registry,
        )  # fmt: skip
        self.stage_duration = Histogram(
            "assay_stage_duration_seconds", "Time that requests spend in each stage.", ("stage",), buckets=seconds,
            registry=self.registry,
        )  # fmt: skip
        for stage in STAGES:
            self.stage_duration.labels(stage)

    def set_duration_buckets(self, seconds: Sequence[float]) -> None:
        """Choose the bounds of every duration, in seconds, before any is observed."""
        self.registry.unregister(self.http_duration)
        self.registry.unregister(self.stage_duration)
        self._make_durations(seconds)

    def expect_requests(self, route: str, method: str) -> None:
        """Have the HTTP series of a route at zero before its first request."""
        self.http_requests.labels(route, method, "200")
        self.http_duration.labels(route, method)

    def watch_state(self, read: Callable[[], str]) -> None:
        """Read at scrape time which of `STATES` the server is in: an engine tells nobody when it begins to hang."""

        def reading(name: str) -> Callable[[], float]:
            return lambda: float(read() == name)

        for name in STATES:
            self.engine_state.labels(name).set_function(reading(name))

    def set_model(
        self, name: str, sha256: str, precision: str, provider: str, centre: float, spread: float,
        quantiles: Mapping[str, float],
    ) -> None:  # fmt: skip
        """Say which model is served; the score histogram gets bounds around its calibration.

        Args:
            centre, spread, quantiles: mean, standard deviation and quantiles of the raw scores of reference responses.
        """
        revision = sha256[:12]
        self.score_reference_mean.labels(revision).set(centre)
        self.score_reference_stddev.labels(revision).set(spread)
        for quantile, score in quantiles.items():
            self.score_reference.labels(revision, quantile).set(score)
        self.model_info.info(
            {"model": name, "revision": revision, "sha256": sha256, "precision": precision, "provider": provider}
        )
        for outcome in OUTCOMES:
            self.samples.labels(name, outcome)
        if self.score is None:
            bounds = [centre + spread * step / 2 for step in range(-8, 9)]
            # The bounds are the model's own, so that its buckets must not be added to another's.
            self.score = BulkHistogram("assay_score", "Raw scores.", bounds, self.registry, {"revision": revision})

    def observe_batch(
        self, *, items: int, tokens: int, shared_tokens: int, padded_tokens: int, cells: int, padded_cells: int
    ) -> None:
        """Count a batch that ran: distinct tokens, those spared by sharing and those added; cells with those added."""
        self.engine_batches.inc()
        self.engine_progress.set_to_current_time()
        self.batch_samples.observe(items)
        self.batch_tokens.observe(tokens)
        for kind, count in (("real", tokens), ("shared", shared_tokens), ("padding", padded_tokens)):
            self.tokens.labels(kind).inc(count)
        for kind, count in (("needed", cells - padded_cells), ("padding", padded_cells)):
            self.attention_cells.labels(kind).inc(count)

    def watch_bodies(self, held: Callable[[], int]) -> None:
        """Read at scrape time how many bytes of bodies are held."""
        self.bodies_held.set_function(lambda: float(held()))

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Read at scrape time how many connections are open."""
        self.connections.set_function(lambda: float(count()))

    def watch_queue(self, read: Callable[[], "tuple[int, int, float, int, float, float]"], limit: int) -> None:
        """Read the queue's gauges at scrape time, so that they cannot drift.

        Args:
            read: gives items, tokens, age of the oldest in seconds, items in flight, saturation, most items lately.
            limit: items that may wait.
        """
        gauges = (
            self.queue_samples, self.queue_tokens, self.queue_oldest, self.inflight_samples, self.saturation,
            self.peak_samples,
        )  # fmt: skip

        def reading(place: int) -> Callable[[], float]:
            return lambda: float(read()[place])

        for place, gauge in enumerate(gauges):
            gauge.set_function(reading(place))
        self.queue_limit.set(limit)
