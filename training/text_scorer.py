"""Rewards of texts, by a trained model."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.bundle.text_format import EncodedItem, Formatter, Message
from training.checkpoint import Checkpoint
from training.encoding import TRAINING_TRUNCATION
from training.scoring import score_sequences

Prompt = str | list[Message]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TextScores:
    """Of N texts: rewards (N,), a hash of the tokens of each, and how many of them were cut to fit (N,) int64."""

    rewards: FloatArray
    keys: list[bytes]
    removed: npt.NDArray[np.int64]


class TextScorer:
    """Rewards of any prompts and responses; what is too long is cut as in training.

    Args:
        checkpoint: the trained model.
        progress: show a bar.
    """

    def __init__(self, checkpoint: Checkpoint, progress: bool) -> None:
        self._checkpoint = checkpoint
        self._progress = progress

    def __call__(self, items: Sequence[tuple[Prompt, str]]) -> TextScores:
        """Scores of (prompt, response) pairs, in order.

        Raises:
            ValueError: a response that no cut makes fit.
            FloatingPointError: a score is not finite.
        """
        checkpoint = self._checkpoint
        # Neighbours of one prompt are one group, which computes it once.
        groups = [
            encode(checkpoint.formatter, prompt, [response for _, response in part])
            for prompt, part in itertools.groupby(items, key=lambda item: item[0])
        ]
        sequences = [[item.ids for item in group] for group in groups]
        block_queries = checkpoint.description.block_queries
        scores = score_sequences(checkpoint.model, sequences, block_queries, progress=self._progress)
        values = np.concatenate(scores)[:, 0]
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise FloatingPointError(f"the model gives a score that is not finite to {items[place][1][:80]!r}")
        everything = [item for group in groups for item in group]
        return TextScores(
            values,
            [hashlib.sha256(item.ids.tobytes()).digest() for item in everything],
            np.array([item.removed for item in everything], dtype=np.int64),
        )


def encode(formatter: Formatter, prompt: Prompt, responses: Sequence[str]) -> list[EncodedItem]:
    """The tokens of each response, cut to fit as in training.

    Raises:
        ValueError: one that no cut makes fit.
    """
    found = []
    for item in formatter.encode(prompt, responses, TRAINING_TRUNCATION):
        if not isinstance(item, EncodedItem):
            raise ValueError(f"a response to {str(prompt)[:80]!r}: {item}")
        found.append(item)
    return found
