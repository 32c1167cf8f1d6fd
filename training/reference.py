"""Which held-out pairs a bundle carries, for servers to check a precision against."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.bundle.reference import Reference, ReferencePair
from training.encoding import Example

MOST_PAIRS, MOST_TOKENS = 256, 32_768
"""A server scores them all before it is ready: on two cores half a minute for a decoder of 135 M parameters."""


def select_reference(
    examples: Sequence[Example], scores: Sequence[npt.NDArray[np.float64]], seed: int = 0
) -> Reference | None:
    """One judged pair of each example, in random order, until there are enough; none of no examples.

    Args:
        examples: held out from training.
        scores: of the trained module in float32, for each example (responses,).
        seed: of the order.
    """
    generator = np.random.default_rng(seed)
    pairs: list[ReferencePair] = []
    tokens = 0
    for place in generator.permutation(len(examples)).tolist():
        example = examples[place]
        if len(pairs) == MOST_PAIRS:
            break
        judgement = example.record.judgements[int(generator.integers(len(example.record.judgements)))]
        first, second = example.sequences[judgement.i], example.sequences[judgement.j]
        tokens += len(first) + len(second)
        if tokens > MOST_TOKENS and pairs:
            break
        pairs.append(
            ReferencePair(
                first=tuple(first.tolist()),
                second=tuple(second.tolist()),
                preference=judgement.soft_label,
                scores=(float(scores[place][judgement.i]), float(scores[place][judgement.j])),
            )
        )
    return Reference(pairs=tuple(pairs)) if pairs else None
