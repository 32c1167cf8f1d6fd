"""Score examples with the PyTorch model, in batches bounded by tokens."""

import gc
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from service.bundle.layout import IntArray, plan_layout
from training.encoding import Example
from training.examples import layout_tensors
from training.model import RewardModel

logger = logging.getLogger("assay.training")


def move_to_accelerator(model: RewardModel) -> None:
    """Put `model` on the GPU, in place, where there is one that has room for it; it is scored where it is."""
    device = torch.accelerator.current_accelerator()
    if device is None:
        return
    gc.collect()  # of a training that came before
    torch.accelerator.empty_cache()
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        model.to("cpu")
        logger.warning("the model does not fit on one GPU, and is scored on the CPU, which takes longer")


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
    return rewards_of(scores)


def rewards_of(scores: Sequence[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    """The first of all heads' scores, for each example (responses,) of (responses, heads)."""
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
    groups = [example.sequences for example in examples]
    scores = score_sequences(model, groups, block_queries, batch_tokens=batch_tokens, progress=progress)
    for example, part in zip(examples, scores, strict=True):
        if not np.isfinite(part).all():
            raise FloatingPointError(f"the model gives a score that is not finite in record {example.record.id!r}")
    return scores


def score_sequences(
    model: RewardModel,
    groups: Sequence[Sequence[IntArray]],
    block_queries: int,
    *,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> list[npt.NDArray[np.float64]]:
    """All that the model gives of token sequences in groups that share a prefix: (sequences, outputs) for each group.

    Equal sequences are scored once: in different places of a batch, rounding would tell them apart. What is not a
    finite number is passed on.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    distinct, places = _distinct(groups)
    scores: list[npt.NDArray[np.float64]] = []
    bar = tqdm(total=len(distinct), desc="scoring", unit=" prompts", disable=not progress, leave=False)
    # Not inference mode: tables that a backbone caches here would not do for training.
    with torch.no_grad(), bar:
        for batch in _batches(distinct, batch_tokens):
            sequences = [sequence for group in batch for sequence in group]
            tensors = layout_tensors(plan_layout(sequences, model.family, block_queries=block_queries))
            try:
                rewards = model(**{name: tensor.to(device) for name, tensor in tensors.items()})
            except torch.OutOfMemoryError:
                logger.warning("a batch does not fit on the GPU beside the model; the rest is scored on the CPU")
                device = torch.device("cpu")
                rewards = model.to(device)(**tensors)
            scores.append(rewards.double().cpu().numpy())
            bar.update(len(batch))
    model.train(was_training)
    every = np.concatenate(scores) if scores else np.zeros((0, len(model.heads.outputs)))
    return [every[place] for place in places]


def _distinct(groups: Sequence[Sequence[IntArray]]) -> tuple[list[list[IntArray]], list[list[int]]]:
    """The groups without sequences that came before, empty ones left out, and where each sequence is among the rest."""
    numbers: dict[bytes, int] = {}
    distinct: list[list[IntArray]] = []
    places: list[list[int]] = []
    for group in groups:
        fresh: list[IntArray] = []
        places.append([])
        for sequence in group:
            key = sequence.tobytes()
            if key not in numbers:
                numbers[key] = len(numbers)
                fresh.append(sequence)
            places[-1].append(numbers[key])
        if fresh:
            distinct.append(fresh)
    return distinct, places


def _batches(groups: Sequence[Sequence[IntArray]], batch_tokens: int) -> Iterator[list[Sequence[IntArray]]]:
    """Consecutive groups of at most `batch_tokens` unshared tokens together; a larger group goes alone."""
    batch: list[Sequence[IntArray]] = []
    size = 0
    for group in groups:
        tokens = sum(map(len, group))
        if batch and size + tokens > batch_tokens:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += tokens
    if batch:
        yield batch
