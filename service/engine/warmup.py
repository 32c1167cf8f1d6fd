"""Run batches of every size before traffic does, and measure them."""

import asyncio
from dataclasses import dataclass

import numpy as np

from service.bundle.layout import IntArray, plan_layout
from service.bundle.reader import Bundle
from service.bundle.text_format import TooLongError, Truncation
from service.engine.runner import Runner
from service.engine.session import EngineError, Rewards


@dataclass(frozen=True)
class Sample:
    """One measured batch: its distinct tokens, the tokens of its longest item, and the seconds it took."""

    tokens: int
    longest: int
    seconds: float


async def warm_up(runner: Runner, bundle: Bundle, max_batch_tokens: int) -> list[Sample]:
    """Score made-up batches of every kind, and say how long each took.

    The largest comes first, so that a lack of memory shows now. All run twice, and the second time counts: the first
    one may have compiled something. The smallest is left as the runner's probe.

    Raises:
        EngineError: a batch fails, or a score is not finite.
    """
    manifest = bundle.manifest
    items = max(1, max_batch_tokens // manifest.max_tokens)
    longest = await asyncio.to_thread(made_up_items, bundle, items, manifest.max_tokens)
    short = await asyncio.to_thread(made_up_items, bundle, 8, 8)
    samples = []
    for sequences in (longest, longest[:1], short, short[:1]):
        layout = plan_layout(sequences, manifest.family, block_queries=manifest.block_queries)
        for _ in range(2):
            # Awaited, not waited for in a thread: a warm-up that hangs must not keep the process from ending.
            result = await asyncio.wrap_future(runner.submit(layout))
            _check(result.rewards, (len(sequences), len(manifest.heads)))
        samples.append(Sample(layout.tokens, max(map(len, sequences)), result.ended - result.started))
    runner.probe = layout
    return samples


def _check(rewards: Rewards, shape: tuple[int, int]) -> None:
    if rewards.shape != shape:
        raise EngineError(f"the graph gives rewards of shape {rewards.shape}, not {shape}")
    if not np.isfinite(rewards).all():
        raise EngineError("the model gives scores that are not finite on made-up input: the weights are broken")


def made_up_items(bundle: Bundle, items: int, words: int) -> list[IntArray]:
    """Items of `words` words, cut to the model's length, with next to nothing to share.

    Real text, not random ids: a tokenizer may know ids that it never gives and that the model has no weights for.
    """
    encoded = [
        bundle.formatter.encode(f"{place}", ["word " * words], (Truncation.RESPONSE_RIGHT, Truncation.PROMPT_LEFT))[0]
        for place in range(items)
    ]
    if errors := [str(item) for item in encoded if isinstance(item, TooLongError)]:
        raise EngineError(f"the model's format leaves no room for a text: {errors[0]}")
    return [item.ids for item in encoded if not isinstance(item, TooLongError)]
