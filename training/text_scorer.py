"""Rewards of texts, by a trained model."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.bundle.layout import IntArray
from service.bundle.text_format import EncodedItem, Formatter, Message
from training.checkpoint import Checkpoint
from training.examples import TRAINING_TRUNCATION
from training.scoring import score_sequences

Prompt = str | list[Message]
FloatArray = npt.NDArray[np.float64]


class TextScorer:
    """Rewards of any prompts and responses; what is too long is cut as in training.

    Raises when called:
        FloatingPointError: a score is not finite.
    """

    def __init__(self, checkpoint: Checkpoint, progress: bool) -> None:
        self._checkpoint = checkpoint
        self._progress = progress

    def __call__(self, items: Sequence[tuple[Prompt, str]]) -> FloatArray:
        """(N,) rewards, in order."""
        checkpoint = self._checkpoint
        # Neighbours of one prompt are one group, which computes it once.
        groups = [
            encode(checkpoint.formatter, prompt, [response for _, response in part])
            for prompt, part in itertools.groupby(items, key=lambda item: item[0])
        ]
        block_queries = checkpoint.description.block_queries
        scores = score_sequences(checkpoint.model, groups, block_queries, progress=self._progress)
        values = np.concatenate(scores)[:, 0]
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise FloatingPointError(f"the model gives a score that is not finite to {items[place][1][:80]!r}")
        return values


def encode(formatter: Formatter, prompt: Prompt, responses: Sequence[str]) -> list[IntArray]:
    """(L,) int64 of each response, cut to fit as in training.

    Raises:
        ValueError: one that no cut makes fit.
    """
    found = []
    for item in formatter.encode(prompt, responses, TRAINING_TRUNCATION):
        if not isinstance(item, EncodedItem):
            raise ValueError(f"a response to {str(prompt)[:80]!r}: {item}")
        found.append(item.ids)
    return found
