"""How much each judgement teaches each head."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.data.lazy_sequence import LazySequence
from training.data.record import Judgement, PreferenceRecord
from training.heads import Heads

FloatArray = npt.NDArray[np.float32]

WeighBy = Literal["equal", "votes"]
_MOST_DRAWS = 1000


class WeightTable(LazySequence[FloatArray]):
    """For each record (J, L): what its J judgements weigh for the L heads that learn, in one array for all."""

    def __init__(self, flat: FloatArray, judgements: npt.NDArray[np.int64]) -> None:
        """`flat` (all judgements, L) in the order of the records, which have so many `judgements` each."""
        self._flat = flat
        self._starts = np.concatenate([[0], np.cumsum(judgements)])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def at(self, number: int) -> FloatArray:
        """(J, L) of a record."""
        return self._flat[self._starts[number] : self._starts[number + 1]]

    def judgements_of(self, number: int) -> int:
        """Of one record."""
        return int(self._starts[number + 1] - self._starts[number])

    @property
    def judgements(self) -> int:
        """Of all records."""
        return len(self._flat)


def judgement_weights(
    records: Sequence[PreferenceRecord], heads: Heads, weigh_by: WeighBy = "equal", seed: int = 0
) -> WeightTable:
    """What every judgement weighs for the L `heads.learnt`.

    A judgement's own weight, times its number of votes if so wished, scaled so that all judgements weigh 1 on average,
    goes to the head it is on: the one there is; each member of an ensemble as often as a bootstrap of prompts draws its
    record (a Poisson count of mean 1, Oza & Russell 2001), over the number of members; its aspect, or, without one, the
    sum of aspects that is the reward.

    Raises:
        ValueError: so few records that, however often they are drawn, some member of an ensemble gets none.
    """
    judgements = np.zeros(len(records), dtype=np.int64)
    own = np.fromiter(_weights(records, weigh_by, judgements), np.float64)
    if heads.kind == "single":
        shares = np.ones((len(own), 1), dtype=np.float32)
    elif heads.kind == "ensemble":
        shares = np.repeat(_bootstrap(records, len(heads.weights), seed) / len(heads.weights), judgements, axis=0)
    else:
        shares = _aspects(records, len(own), heads)
    mean = own.mean() if len(own) else 1.0
    return WeightTable((own[:, None] / mean * shares).astype(np.float32), judgements)


def check_aspects(train: Sequence[PreferenceRecord], others: Sequence[PreferenceRecord], heads: Heads) -> None:
    """Refuse aspects that no head is for, and heads of aspects that nothing teaches.

    Raises:
        ValueError: naming the record, or the aspect.
    """
    if heads.kind != "aspects":
        return
    check_known_aspects(chain(train, others), heads)
    taught = {judgement.aspect for record in train for judgement in record.judgements}
    if silent := [name for name in heads.weights if name not in taught]:
        raise ValueError(
            f"model.aspects: no training judgement is on the aspect {silent[0]!r}; rows name it in `aspect`, or "
            "data.aspects for all of a source"
        )


def check_known_aspects(records: Iterable[PreferenceRecord], heads: Heads) -> None:
    """Refuse judgements on aspects that no head is for; a model without aspects takes all for its one score.

    Raises:
        ValueError: naming the record.
    """
    if heads.kind != "aspects":
        return
    for record in records:
        for judgement in record.judgements:
            if judgement.aspect is not None and judgement.aspect not in heads.weights:
                raise ValueError(
                    f"record {record.id!r} has a judgement on the aspect {judgement.aspect!r}, and model.aspects names "
                    f"{', '.join(heads.weights)} only"
                )


def column_of(judgement: Judgement, heads: Heads) -> int:
    """Which of `heads.outputs` answers for a judgement: that of its aspect, else the reward."""
    if heads.kind != "aspects" or judgement.aspect is None:
        return 0
    return heads.outputs.index(judgement.aspect)


def _weights(
    records: Sequence[PreferenceRecord], weigh_by: WeighBy, judgements: npt.NDArray[np.int64]
) -> Iterator[float]:
    """Of every judgement, and into `judgements` how many a record has: one pass, as records may lie on disk."""
    for number, record in enumerate(records):
        judgements[number] = len(record.judgements)
        for judgement in record.judgements:
            yield _weight(judgement, weigh_by)


def _weight(judgement: Judgement, weigh_by: WeighBy) -> float:
    weight = 1.0 if judgement.weight is None else judgement.weight
    return weight * judgement.votes if weigh_by == "votes" else weight


def _bootstrap(records: Sequence[PreferenceRecord], members: int, seed: int) -> npt.NDArray[np.float32]:
    """(records, members) counts that depend on seed and record alone.

    Where a member got no record at all, of few, all are drawn anew.
    """
    for draw in range(_MOST_DRAWS):
        prefix = f"{seed}" if draw == 0 else f"{seed}:{draw}"
        counts = np.zeros((len(records), members), dtype=np.float32)
        for number, record in enumerate(records):
            counts[number] = _counts(f"{prefix}:{record.id}", members)
        if not len(records) or np.all(counts.sum(axis=0) > 0):
            return counts
    raise ValueError(f"model.ensemble is {members}: of {len(records)} training prompts some member would learn nothing")


def _counts(key: str, members: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(list(hashlib.sha256(key.encode()).digest())).poisson(1.0, members)


def _aspects(records: Sequence[PreferenceRecord], judgements: int, heads: Heads) -> npt.NDArray[np.float32]:
    """(judgements, heads that learn): 1 at the aspect of each; the reward and every aspect learn, in this order."""
    columns = (column_of(judgement, heads) for record in records for judgement in record.judgements)
    shares = np.zeros((judgements, len(heads.learnt)), dtype=np.float32)
    shares[np.arange(judgements), np.fromiter(columns, np.int64, judgements)] = 1.0
    return shares
