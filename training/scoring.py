"""Score examples with the PyTorch model, in batches bounded by tokens."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from service.bundle.layout import plan_layout
from training.examples import Example, layout_tensors
from training.model import RewardModel


def score_examples(
    model: RewardModel,
    examples: Sequence[Example],
    block_queries: int,
    *,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> list[npt.NDArray[np.float64]]:
    """Rewards, for each example (responses,) float64; arguments and errors as of `score_heads`."""
    scores = score_heads(model, examples, block_queries, batch_tokens=batch_tokens, progress=progress)
    return [part[:, 0] for part in scores]


def score_heads(
    model: RewardModel,
    examples: Sequence[Example],
    block_queries: int,
    *,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> list[npt.NDArray[np.float64]]:
    """All that the model gives, for each example (responses, `model.heads.outputs`) float64.

    Raises:
        FloatingPointError: a score is not finite; the message names the record.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    scores: list[npt.NDArray[np.float64]] = []
    bar = tqdm(total=len(examples), desc="scoring", unit=" prompts", disable=not progress, leave=False)
    # Not inference mode: tables that a backbone caches here would not do for training.
    with torch.no_grad(), bar:
        for batch in _batches(examples, batch_tokens):
            sequences = [sequence for example in batch for sequence in example.sequences]
            tensors = layout_tensors(plan_layout(sequences, model.family, block_queries=block_queries))
            rewards = model(**{name: tensor.to(device) for name, tensor in tensors.items()})
            values = rewards.double().cpu().numpy()
            start = 0
            for example in batch:
                part = values[start : start + len(example.items)]
                if not np.isfinite(part).all():
                    raise FloatingPointError(
                        f"the model gives a score that is not finite in record {example.record.id!r}"
                    )
                scores.append(part)
                start += len(part)
            bar.update(len(batch))
    model.train(was_training)
    return scores


def _batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Consecutive examples of at most `batch_tokens` unshared tokens together; a larger example goes alone."""
    batch: list[Example] = []
    size = 0
    for example in examples:
        tokens = sum(len(item.ids) for item in example.items)
        if batch and size + tokens > batch_tokens:
            yield batch
            batch, size = [], 0
        batch.append(example)
        size += tokens
    if batch:
        yield batch
