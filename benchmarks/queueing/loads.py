"""Open-loop and closed-loop load on the server in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.queueing.server import Fate, Server
from benchmarks.queueing.traffic import MOST_TOKENS, Traffic
from service.scoring.admission import Limits
from service.scoring.cost import CostModel
from service.scoring.prefixes import Sequences

TRUTH = CostModel(fixed=2e-3, per_token=2e-4, per_cell=8e-8)
"""A decoder of 135M parameters on two cores with AMX: 0.1 s for a pair, 1.6 s for 64 items of 8 prompts."""
LIMITS = Limits(queue_items=2048, queue_tokens=2**20, batch_tokens=4096, batch_cells=4096 * (MOST_TOKENS + 128))
INTERACTIVE, BULK, SINGLE = "interactive", "bulk", "single"


@dataclass(frozen=True)
class Mix:
    """Shares of the engine's capacity at load 1."""

    interactive: float
    bulk: float


@lru_cache
def capacity(kind: str) -> float:
    """Requests of one kind that the engine can do in a second when some always wait."""
    draw = _draws(Traffic(seed=12345))[kind]
    server, requests = Server(TRUTH, LIMITS), 100

    def again() -> None:
        if len(server.fates) < requests:
            server.post(kind, draw(), again)

    for _ in range(8):
        again()
    server.run(until=1e6)
    return requests / server.busy_seconds


def open_loop(mix: Mix, load: float, seconds: float, seed: int) -> Server:
    """Poisson arrivals of pairs and of bulk posts, at a multiple of what the engine can do."""
    traffic, server = Traffic(seed), Server(TRUTH, LIMITS, seed=seed)
    for kind, share in ((INTERACTIVE, mix.interactive), (BULK, mix.bulk)):
        if share:
            _arrivals(server, traffic, kind, share * load * capacity(kind), seconds)
    server.run(until=seconds)
    return server


def closed_loop(workers: int, seconds: float, seed: int) -> Server:
    """Workers that each post one item in full text, wait for its score, and post the next."""
    traffic, server = Traffic(seed), Server(TRUTH, LIMITS, seed=seed)

    def again() -> None:
        if server.now < seconds:
            server.post(SINGLE, traffic.single(), again)

    for _ in range(workers):
        server.at(0.0, again)
    server.run(until=seconds)
    return server


def figures(server: Server) -> dict[str, float | int | dict[str, float | int]]:
    """What a run shows; times in milliseconds."""
    picked = [fate for fate in server.fates if fate.picked_after is not None]
    worst = max((fate.picked_after or 0.0) / fate.bound for fate in picked)
    cells = sum(batch.cells for batch in server.batches)
    tokens = sum(batch.tokens for batch in server.batches)
    found: dict[str, float | int | dict[str, float | int]] = {
        "utilisation": round(server.busy_seconds / server.now, 3),
        "items_per_second": round(sum(fate.items for fate in server.fates if fate.ended) / server.now, 1),
        "batch_seconds_mean": round(server.busy_seconds / max(1, len(server.batches)), 3),
        "items_per_batch": round(sum(map(len, server.batches)) / max(1, len(server.batches)), 1),
        "computed_tokens_per_item": round(tokens / max(1, sum(map(len, server.batches))), 1),
        "keys_per_query_slot": round(cells / max(1, tokens), 1),
        "worst_wait_over_bound": round(worst, 3),
        "rejected_requests": sum(fate.retry_after is not None for fate in server.fates),
    }
    for kind in sorted({fate.kind for fate in server.fates}):
        found[kind] = _latencies([fate for fate in server.fates if fate.kind == kind])
    return found


def p99(server: Server, kind: str) -> float:
    """99th percentile of the latency of a kind, in seconds."""
    return float(np.percentile([fate.latency for fate in server.fates if fate.kind == kind and fate.latency], 99))


def _latencies(fates: list[Fate]) -> dict[str, float | int]:
    times = [fate.latency for fate in fates if fate.latency is not None]
    quantiles = np.percentile(times, [50, 99, 100]) * 1e3 if times else np.full(3, np.nan)
    return {"requests": len(fates), "ended": len(times)} | {
        name: round(float(value), 1) for name, value in zip(("p50_ms", "p99_ms", "max_ms"), quantiles, strict=True)
    }


def _draws(traffic: Traffic) -> dict[str, Callable[[], Sequences]]:
    return {INTERACTIVE: traffic.pair, BULK: traffic.bulk}


def _arrivals(server: Server, traffic: Traffic, kind: str, rate: float, seconds: float) -> None:
    draw = _draws(traffic)[kind]

    def come() -> None:
        server.post(kind, draw())
        following()

    def following() -> None:
        when = server.now + traffic.gap(rate)
        if when < seconds:
            server.at(when, come)

    following()
