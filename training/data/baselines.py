"""What a reward model must beat: the length rule, and words without their order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import vstack  # type: ignore[import-untyped, unused-ignore]
from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped, unused-ignore]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]
from sklearn.model_selection import GroupKFold  # type: ignore[import-untyped, unused-ignore]

from training.data.pairs import Pair, decided
from training.data.record import PreferenceRecord


@dataclass(frozen=True)
class Accuracy:
    """The share of the decided pairs that were ranked as people did; equal scores count half.

    `value` is NaN where `pairs` is 0.
    """

    value: float
    pairs: int


def accuracy(pairs: Sequence[Pair], scores_i: Sequence[float], scores_j: Sequence[float]) -> Accuracy:
    """The accuracy of two scores per pair against the side with more votes; all three are of one length."""
    credits = [
        0.5 if one == other else float((one > other) == (pair.direction > 0))
        for pair, one, other in zip(pairs, scores_i, scores_j, strict=True)
    ]
    return Accuracy(float(np.mean(credits)) if credits else float("nan"), len(credits))


def length_rule(records: Iterable[PreferenceRecord], length: Callable[[str], int] = len) -> Accuracy:
    """The accuracy of "the longer response wins" on the decided pairs; `length` counts characters."""
    pairs = decided(records)
    return accuracy(pairs, [length(pair.text_i) for pair in pairs], [length(pair.text_j) for pair in pairs])


def bag_of_words(records: Iterable[PreferenceRecord], folds: int = 5, min_texts: int = 2) -> Accuracy:
    """The cross-validated accuracy of a logistic regression on the words that one response alone has.

    Features are the differences of binary word counts (words in at least `min_texts` distinct texts of the
    training folds); folds are grouped by `split_key`, so no prompt is on both sides. Deterministic. Raises
    `ValueError` if there are fewer groups than folds, or no word is left.
    """
    pairs = decided(records)
    groups = [pair.record.split_key for pair in pairs]
    if len(set(groups)) < folds:
        raise ValueError(f"{len(set(groups))} groups of decided pairs for {folds} folds; lower folds or add data")
    margins = np.zeros(len(pairs))
    for train, test in GroupKFold(n_splits=folds).split(pairs, groups=groups):
        margins[test] = bag_of_words_margins([pairs[k] for k in train], [pairs[k] for k in test], min_texts)
    return accuracy(pairs, margins.tolist(), [0.0] * len(pairs))


def bag_of_words_margins(train: Sequence[Pair], test: Sequence[Pair], min_texts: int = 2) -> npt.NDArray[np.float64]:
    """The log odds (test pairs,) that `i` is preferred, as of `bag_of_words`; both are decided pairs."""
    words = CountVectorizer(binary=True, min_df=min_texts, token_pattern=r"(?u)\b\w+\b", dtype=np.float64)
    words.fit(sorted({text for pair in train for text in (pair.text_i, pair.text_j)}))
    differences = _differences(words, train)
    won = np.array([pair.direction > 0 for pair in train])
    # Both orders of each pair: the model is antisymmetric and always sees two classes.
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(vstack([differences, -differences]), np.concatenate([won, ~won]))
    margins: npt.NDArray[np.float64] = model.decision_function(_differences(words, test))
    return margins


def _differences(words: CountVectorizer, pairs: Sequence[Pair]) -> Any:
    return words.transform([pair.text_i for pair in pairs]) - words.transform([pair.text_j for pair in pairs])
