"""How much each judgement teaches each head."""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.data.record import Judgement, PreferenceRecord
from training.heads import Heads

FloatArray = npt.NDArray[np.float32]

WeighBy = Literal["equal", "votes"]
_MOST_DRAWS = 1000


def judgement_weights(
    records: Sequence[PreferenceRecord], heads: Heads, weigh_by: WeighBy = "equal", seed: int = 0
) -> list[FloatArray]:
    """For each record (J, L): what its J judgements weigh for the L `heads.learnt`.

    A judgement's own weight, times its number of votes if so wished, scaled so that all judgements weigh 1 on average,
    goes to the head it is on: the one there is; each member of an ensemble as often as a bootstrap of prompts draws its
    record (a Poisson count of mean 1, Oza & Russell 2001), over the number of members; its aspect, or, without one, the
    sum of aspects that is the reward.
    """
    own = [np.array([_weight(judgement, weigh_by) for judgement in record.judgements]) for record in records]
    mean = np.concatenate(own).mean() if own else 1.0
    shares = {"single": _single, "ensemble": _bootstrap, "aspects": _aspects}[heads.kind](records, heads, seed)
    return [(weight[:, None] / mean * share).astype(np.float32) for weight, share in zip(own, shares, strict=True)]


def check_aspects(train: Sequence[PreferenceRecord], others: Sequence[PreferenceRecord], heads: Heads) -> None:
    """Refuse aspects that no head is for, and heads of aspects that nothing teaches.

    Raises:
        ValueError: naming the record, or the aspect.
    """
    if heads.kind != "aspects":
        return
    taught: set[str | None] = set()
    for number, record in enumerate((*train, *others)):
        for judgement in record.judgements:
            if judgement.aspect is not None and judgement.aspect not in heads.weights:
                raise ValueError(
                    f"record {record.id!r} has a judgement on the aspect {judgement.aspect!r}, and model.aspects names "
                    f"{', '.join(heads.weights)} only"
                )
            if number < len(train):
                taught.add(judgement.aspect)
    if silent := [name for name in heads.weights if name not in taught]:
        raise ValueError(
            f"model.aspects: no training judgement is on the aspect {silent[0]!r}; rows name it in `aspect`, or "
            "data.aspects for all of a source"
        )


def column_of(judgement: Judgement, heads: Heads) -> int:
    """Which of `heads.outputs` answers for a judgement: that of its aspect, else the reward."""
    if heads.kind != "aspects" or judgement.aspect is None:
        return 0
    return heads.outputs.index(judgement.aspect)


def _weight(judgement: Judgement, weigh_by: WeighBy) -> float:
    weight = 1.0 if judgement.weight is None else judgement.weight
    return weight * judgement.votes if weigh_by == "votes" else weight


def _single(records: Sequence[PreferenceRecord], heads: Heads, seed: int) -> list[npt.NDArray[np.float64]]:
    return [np.ones((len(record.judgements), 1)) for record in records]


def _bootstrap(records: Sequence[PreferenceRecord], heads: Heads, seed: int) -> list[npt.NDArray[np.float64]]:
    """Counts that depend on seed and record alone; where a member got no record at all, of few, all are drawn anew."""
    members = len(heads.weights)
    for draw in range(_MOST_DRAWS):
        counts = [
            _counts(f"{seed}:{record.id}" if draw == 0 else f"{seed}:{draw}:{record.id}", members) for record in records
        ]
        if not records or np.all(np.sum(counts, axis=0) > 0):
            break
    return [
        np.tile(count / members, (len(record.judgements), 1)) for count, record in zip(counts, records, strict=True)
    ]


def _counts(key: str, members: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(list(hashlib.sha256(key.encode()).digest())).poisson(1.0, members)


def _aspects(records: Sequence[PreferenceRecord], heads: Heads, seed: int) -> list[npt.NDArray[np.float64]]:
    """The reward and every aspect learn, in this order."""
    shares = []
    for record in records:
        weights = np.zeros((len(record.judgements), len(heads.learnt)))
        for number, judgement in enumerate(record.judgements):
            weights[number, column_of(judgement, heads)] = 1.0
        shares.append(weights)
    return shares
