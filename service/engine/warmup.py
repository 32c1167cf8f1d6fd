"""Run the largest and the smallest batch before traffic does."""

import asyncio

import numpy as np

from service.bundle.layout import IntArray, plan_layout
from service.bundle.reader import Bundle
from service.bundle.text_format import TooLongError, Truncation
from service.engine.runner import Runner
from service.engine.session import EngineError


async def warm_up(runner: Runner, bundle: Bundle, max_batch_tokens: int) -> None:
    """Score made-up batches of every kind: the largest, so that a lack of memory shows now, and a single item.

    Raises:
        EngineError: a batch fails, or a score is not finite.
    """
    manifest = bundle.manifest
    items = max(1, max_batch_tokens // manifest.max_tokens)
    longest = await asyncio.to_thread(_made_up, bundle, items, manifest.max_tokens)
    short = await asyncio.to_thread(_made_up, bundle, 8, 8)
    for sequences in (longest, short, short[:1]):
        layout = plan_layout(sequences, manifest.family, block_queries=manifest.block_queries)
        # Awaited, not waited for in a thread: a warm-up that hangs must not keep the process from ending.
        rewards = (await asyncio.wrap_future(runner.submit(layout))).rewards
        if rewards.shape != (len(sequences), len(manifest.heads)):
            raise EngineError(
                f"the graph gives rewards of shape {rewards.shape}, not ({len(sequences)}, {len(manifest.heads)})"
            )
        if not np.isfinite(rewards).all():
            raise EngineError("the model gives scores that are not finite on made-up input: the weights are broken")


def _made_up(bundle: Bundle, items: int, words: int) -> list[IntArray]:
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
