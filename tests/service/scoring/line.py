"""A scorer over a scripted session, an injected clock and the pocket bundles."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.bundle.reader import Bundle
from service.bundle.text_format import Truncation
from service.engine.runner import Runner
from service.observability.metrics import Metrics
from service.scoring.admission import Limits
from service.scoring.scheduler import Scheduler
from service.scoring.scorer import Item, Scorer, Scores, Wishes
from tests.pocket import pocket_reward
from tests.service.doubles import Clock, ScriptedSession, WatchedRunner, until

ROOMY = Limits(queue_items=100_000, queue_tokens=10_000_000, batch_tokens=4096)


def items(count: int, name: str = "r") -> list[Item]:
    """So many items with one prompt and responses of that name."""
    return [Item("p", f"{name}{place}") for place in range(count)]


@dataclass
class Line:
    """One scorer with everything under it."""

    bundle: Bundle
    session: ScriptedSession
    runner: Runner
    scheduler: Scheduler
    scorer: Scorer
    metrics: Metrics
    executor: ThreadPoolExecutor
    clock: Clock

    def submit(self, items: list[Item], **wishes) -> "asyncio.Task[Scores]":
        """Begin to score."""
        return asyncio.ensure_future(self.scorer.score(items, Wishes(**wishes)))

    def right(self, items: list[Item], truncate: Truncation | None = None) -> list[float]:
        """The reward of each item, computed from its tokens alone."""
        formatter = self.bundle.formatter
        sides = () if truncate is None else (truncate,)
        return [
            pocket_reward(formatter.encode(item.prompt, [item.response], sides)[0].ids, self.bundle.manifest.family)
            for item in items
        ]

    def metric(self, name: str, **labels: str) -> float:
        """Value of one sample as it would be scraped now."""
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value

    async def queued(self, items: int) -> None:
        """Wait until so many items are in the queue."""
        await until(lambda: self.metric("assay_queue_samples") == items and not self.scheduler.admission.reserved)


@contextlib.asynccontextmanager
async def line_over(
    bundle: Bundle, limits: Limits = ROOMY, session=None, cache=None, deterministic=False
) -> AsyncIterator[Line]:
    """Open a line and close it: nothing may be left in it then."""
    manifest = bundle.manifest
    session = session or ScriptedSession(manifest.family)
    clock, metrics = Clock(), Metrics("test")
    metrics.set_model(manifest.name, bundle.digest, "fp32", session.provider, 0.0, 1.0, {})
    runner = WatchedRunner(session, clock)
    runner.start()
    with ThreadPoolExecutor(2) as executor:
        scheduler = Scheduler(
            runner, manifest.family, manifest.block_queries, limits, metrics, clock, cache, deterministic
        )
        scorer = Scorer(bundle, scheduler, executor, metrics, clock)
        line = Line(bundle, session, runner, scheduler, scorer, metrics, executor, clock)
        try:
            yield line
            await until(lambda: not line.metric("assay_inflight_samples"))
            assert line.metric("assay_queue_samples") == line.metric("assay_queue_tokens") == 0
            assert scheduler.admission.reserved == 0
        finally:
            if isinstance(session, ScriptedSession):
                session.let_go()
            assert await asyncio.to_thread(runner.stop, 10)
