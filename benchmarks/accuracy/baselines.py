"""What a trained model must beat on the same folds: words without their order, and the backbone as it came."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from benchmarks.accuracy.folds import Fold
from training.config import TrainingConfig
from training.data import Splits
from training.data.baselines import bag_of_words_margins
from training.data.pairs import Pair, decided
from training.encoding import encode_records
from training.evaluation.metrics import FloatArray
from training.new_checkpoint import new_checkpoint
from training.prepare import PreparedData
from training.scoring import score_heads

_INNER_FOLDS = 5


def bag_of_words(folds: Sequence[Fold]) -> FloatArray:
    """Margins (P,) of the decided test pairs of all folds, in order."""
    return np.concatenate(
        [
            bag_of_words_margins(decided([*fold.train, *fold.validation]), decided(fold.test))
            for fold in tqdm(folds, "bag of words", unit=" folds")
        ]
    )


def untuned_backbone(folds: Sequence[Fold], recipe: TrainingConfig) -> FloatArray:
    """The same of a logistic regression on the frozen backbone's pooled states.

    Its penalty is chosen among five by cross-validation on the training pairs, grouped as the folds are.
    """
    states = _states(folds, recipe)
    margins = []
    for fold in tqdm(folds, "untuned backbone", unit=" folds"):
        train, test = decided([*fold.train, *fold.validation]), decided(fold.test)
        differences = np.stack([_difference(states, pair) for pair in train])
        won = np.array([pair.direction > 0 for pair in train])
        groups = np.array([pair.record.split_key for pair in train])
        # Both orders of each pair, so that the model is antisymmetric.
        features, labels = np.concatenate([differences, -differences]), np.concatenate([won, ~won])
        inner = list(GroupKFold(_INNER_FOLDS).split(features, groups=np.concatenate([groups, groups])))
        model = make_pipeline(
            StandardScaler(with_mean=False),
            LogisticRegressionCV(
                Cs=np.logspace(-5, -1, 5), cv=inner, fit_intercept=False, scoring="neg_log_loss", max_iter=500
            ),
        )
        model.fit(features, labels)
        margins.append(model.decision_function(np.stack([_difference(states, pair) for pair in test])))
    return np.concatenate(margins)


def _states(folds: Sequence[Fold], recipe: TrainingConfig) -> dict[str, FloatArray]:
    """The pooled state (responses, hidden) of every response, by record."""
    records = list(
        {r.id: r for fold in folds for part in (fold.train, fold.validation, fold.test) for r in part}.values()
    )
    checkpoint = new_checkpoint(recipe, PreparedData(Splits(records, [], []), "0" * 64, {}))
    checkpoint.model.head = nn.Identity()  # type: ignore[assignment]  # what it would read
    examples = encode_records(records, checkpoint.formatter, False)
    scores = score_heads(checkpoint.model, examples, recipe.model.block_queries, progress=True)
    return {record.id: part for record, part in zip(records, scores, strict=True)}


def _difference(states: dict[str, FloatArray], pair: Pair) -> FloatArray:
    state = states[pair.record.id]
    difference: FloatArray = state[pair.judgement.i] - state[pair.judgement.j]
    return difference
