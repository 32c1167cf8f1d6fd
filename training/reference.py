"""Which held-out pairs a bundle carries, for servers to check a precision against."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.bundle.reference import LEAST_PAIRS, Reference, ReferencePair
from training.encoding import Example

MOST_PAIRS, MOST_TOKENS = 256, 32_768
"""A server scores them all before it is ready: on two cores half a minute for a decoder of 135 M parameters. Of long
texts it may be more, for the least number of pairs that a precision can be judged by."""


def select_reference(
    examples: Sequence[Example], scores: Sequence[npt.NDArray[np.float64]], seed: int = 0
) -> Reference | None:
    """Judged pairs in random order, of every example one before any has two, until there are enough; none of none.

    Args:
        examples: held out from training.
        scores: of the trained module in float32, for each example (responses,).
        seed: of the order.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(examples)).tolist()
    judgements = [generator.permutation(len(example.record.judgements)).tolist() for example in examples]
    rounds = range(max(map(len, judgements), default=0))
    pairs: list[ReferencePair] = []
    tokens = 0
    for place, turn in ((place, turn) for turn in rounds for place in order if turn < len(judgements[place])):
        judgement = examples[place].record.judgements[judgements[place][turn]]
        first, second = examples[place].sequences[judgement.i], examples[place].sequences[judgement.j]
        if tokens + len(first) + len(second) > MOST_TOKENS and len(pairs) >= LEAST_PAIRS:
            continue  # a shorter one may fit: servers want many
        tokens += len(first) + len(second)
        pairs.append(
            ReferencePair(
                first=tuple(first.tolist()),
                second=tuple(second.tolist()),
                preference=judgement.soft_label,
                scores=(float(scores[place][judgement.i]), float(scores[place][judgement.j])),
            )
        )
        if len(pairs) == MOST_PAIRS:
            break
    return Reference(pairs=tuple(pairs)) if pairs else None
