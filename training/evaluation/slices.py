"""Accuracy by what the pairs are: source, category, agreement of the votes, length, margin."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.encoding import Example
from training.evaluation import metrics
from training.evaluation.evaluate import LEAST_PROMPTS, JudgedPairs
from training.evaluation.metrics import FloatArray, Interval

Labels = npt.NDArray[np.str_]

BY_LONGER = "whether the preferred response is longer"
"""Where the rule that the longer wins is right in one part and wrong in the other, by how they are made."""


@dataclass(frozen=True)
class Slice:
    """One part of the decided pairs."""

    name: str
    pairs: int
    accuracy: Interval
    length_rule: float


def slices(examples: Sequence[Example], decided: JudgedPairs) -> dict[str, list[Slice]]:
    """Accuracy by dimension, for parts of at least `LEAST_PROMPTS` prompts; a dimension of one part is left out.

    Args:
        examples: that the pairs are of.
        decided: pairs with a majority.
    """
    right = metrics.correct(decided.margin, decided.preference)
    rule = metrics.correct(metrics.length_margin(decided.length_i, decided.length_j), decided.preference)
    found: dict[str, list[Slice]] = {}
    for dimension, labels in _labels(examples, decided).items():
        parts = []
        for name in sorted(set(labels.tolist()) - {""}):
            mask = labels == name
            if len(set(decided.cluster[mask].tolist())) >= LEAST_PROMPTS:
                interval = metrics.clustered_interval(right[mask], decided.cluster[mask])
                parts.append(Slice(name, int(mask.sum()), interval, float(rule[mask].mean())))
        if len(parts) > 1:
            found[dimension] = parts
    return found


def _labels(examples: Sequence[Example], pairs: JudgedPairs) -> dict[str, Labels]:
    """A label for each pair (P,) in each dimension; an empty one keeps it out."""
    records = [examples[number].record for number in pairs.example]
    longer = np.maximum(pairs.length_i, pairs.length_j)
    ratio = np.minimum(pairs.length_i, pairs.length_j) / np.maximum(longer, 1)
    preferred_is_i = pairs.preference > 0.5
    difference = np.where(preferred_is_i, pairs.length_i - pairs.length_j, pairs.length_j - pairs.length_i)
    share = np.maximum(pairs.preference, 1 - pairs.preference)
    worse = [
        "" if record.qualities is None else record.qualities[judged.j if first else judged.i]
        for record, judged, first in zip(
            records,
            (record.judgements[place] for record, place in zip(records, pairs.judgement, strict=True)),
            preferred_is_i,
            strict=True,
        )
    ]
    return {
        "source": np.array([record.source for record in records]),
        "category": np.array([record.category or "" for record in records]),
        "quality of the other response": np.array(worse),
        "votes for the preferred response": np.select(
            [pairs.votes < 2, share == 1, share >= 0.75], ["one vote", "all", "three quarters or more"], "fewer"
        ),
        BY_LONGER: np.select([difference > 0, difference < 0], ["longer", "shorter"], "as long"),
        "how close the two lengths are": np.select(
            [ratio >= 0.75, ratio >= 0.5],
            ["1: within 25 %", "2: the shorter has 50 to 75 %"],
            "3: the shorter has under 50 %",
        ),
        "length of the longer response": _quarters(longer),
        "how far apart the model puts the two": _fifths(np.abs(pairs.margin)),
    }


def _fifths(margin: FloatArray) -> Labels:
    """Equally many in each, in order."""
    place = np.empty(len(margin), dtype=np.int64)
    place[np.argsort(margin, kind="stable")] = np.arange(len(margin)) * 5 // max(1, len(margin))
    names = ["1: the closest fifth", "2", "3", "4", "5: the furthest fifth"]
    return np.array(names)[place]


def _quarters(length: npt.NDArray[np.int64]) -> Labels:
    edges = np.unique(np.quantile(length, [0.25, 0.5, 0.75]).round().astype(int))
    place = np.digitize(length, edges)
    bounds = ["0", *map(str, edges), ""]
    names = [
        f"{number + 1}: {low} to {int(high) - 1} characters" if high else f"{number + 1}: {low} characters and more"
        for number, (low, high) in enumerate(itertools.pairwise(bounds))
    ]
    return np.array(names)[place]
