"""Run the largest and the smallest batch before traffic does."""

import numpy as np

from service.bundle.layout import plan_layout
from service.bundle.reader import Bundle
from service.engine.runner import Runner
from service.engine.session import EngineError


def warm_up(runner: Runner, bundle: Bundle, max_batch_tokens: int) -> None:
    """Score made-up batches of every kind: the largest, so that a lack of memory shows now, and a single token.

    Raises:
        EngineError: a batch fails, or a score is not finite.
    """
    manifest = bundle.manifest
    vocabulary = bundle.formatter.tokenizer.vocabulary_size
    generator = np.random.default_rng(0)
    longest = generator.integers(0, vocabulary, manifest.max_tokens, dtype=np.int64)
    items = max(1, max_batch_tokens // manifest.max_tokens)
    batches = [
        [np.roll(longest, shift) for shift in range(items)],
        [generator.integers(0, vocabulary, min(64, manifest.max_tokens), dtype=np.int64) for _ in range(8)],
        [longest[:1]],
    ]
    for sequences in batches:
        layout = plan_layout(sequences, manifest.family, block_queries=manifest.block_queries)
        rewards = runner.submit(layout).result().rewards
        if rewards.shape != (len(sequences), len(manifest.heads)):
            raise EngineError(
                f"the graph gives rewards of shape {rewards.shape}, not ({len(sequences)}, {len(manifest.heads)})"
            )
        if not np.isfinite(rewards).all():
            raise EngineError("the model gives scores that are not finite on made-up input: the weights are broken")
