"""What the report has beyond the figures of `evaluate`: where the model is good, where not, and what it falls for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit

from training.encoding import Example
from training.evaluation import metrics
from training.evaluation.best_of_n import BestOfN, best_of_n
from training.evaluation.disagreement import Disagreement, disagreement
from training.evaluation.evaluate import JudgedPairs, judged_pairs, within_prompt
from training.evaluation.metrics import FloatArray, IntArray, Interval
from training.evaluation.mistakes import Mistake, hardest_mistakes
from training.evaluation.probes import Probes
from training.evaluation.slices import Slice, slices
from training.heads import Heads
from training.judgement_weights import column_of
from training.scoring import rewards_of


@dataclass(frozen=True)
class Analysis:
    """Parts that a model or its data do not have are None.

    Attributes:
        intervals: of `Evaluation`'s log_loss, brier, ece_before, ece_after and spearman_length, over prompts.
        slices: accuracy by dimension.
        aspects: accuracy of each aspect's head on the pairs judged on it.
        best_of_n: of prompts with several judged responses.
        disagreement: of an ensemble.
        probes: what the score makes of changed responses, where they were asked for.
        mistakes: for people to read.
    """

    intervals: dict[str, Interval | None]
    slices: dict[str, list[Slice]]
    aspects: dict[str, Interval] | None
    best_of_n: BestOfN | None
    disagreement: Disagreement | None
    probes: Probes | None
    mistakes: list[Mistake]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def analyse(
    examples: Sequence[Example],
    scores: Sequence[FloatArray],
    heads: Heads,
    temperature: float,
    probes: Probes | None,
) -> Analysis:
    """The analysis of a model on held-out examples.

    Args:
        examples: held out.
        scores: for each (responses, heads.outputs).
        heads: of the model.
        temperature: of its calibration.
        probes: if they were made.
    """
    pairs = judged_pairs(examples, scores, partial(column_of, heads=heads))
    mask = pairs.preference != 0.5
    decided = pairs.select(mask)
    right = metrics.correct(decided.margin, decided.preference)
    spread = None
    if heads.kind == "ensemble":
        members = [judged_pairs(examples, [part[:, column] for part in scores]).margin[mask] for column in heads.learnt]
        spread = disagreement(np.stack(members, axis=1), right, decided.cluster)
    return Analysis(
        intervals=_intervals(pairs, examples, rewards_of(scores), temperature),
        slices=slices(examples, decided),
        aspects=_by_aspect(examples, decided, right, heads) if heads.kind == "aspects" else None,
        best_of_n=best_of_n(examples, rewards_of(scores)),
        disagreement=spread,
        probes=probes,
        mistakes=hardest_mistakes(examples, decided, temperature),
    )


def _intervals(
    pairs: JudgedPairs, examples: Sequence[Example], rewards: Sequence[FloatArray], temperature: float
) -> dict[str, Interval | None]:
    margin, preference = pairs.margin, pairs.preference

    def calibration_error(temperature: float) -> Callable[[IntArray], float]:
        return lambda rows: metrics.calibration_error(margin[rows], preference[rows], temperature)

    score, length, prompt = within_prompt(examples, rewards)
    return {
        "log_loss": metrics.clustered_interval(metrics.pair_losses(margin, preference), pairs.cluster),
        "brier": metrics.clustered_interval(np.square(expit(margin) - preference), pairs.cluster),
        "ece_before": metrics.resampled_interval(calibration_error(1.0), pairs.cluster, (0, 1)),
        "ece_after": metrics.resampled_interval(calibration_error(temperature), pairs.cluster, (0, 1)),
        "spearman_length": metrics.resampled_interval(
            lambda rows: metrics.spearman(score[rows], length[rows]), prompt, (-1, 1)
        ),
    }


def _by_aspect(
    examples: Sequence[Example], decided: JudgedPairs, right: FloatArray, heads: Heads
) -> dict[str, Interval]:
    aspect = np.array([
        examples[number].record.judgements[place].aspect or ""
        for number, place in zip(decided.example, decided.judgement, strict=True)
    ])  # fmt: skip
    return {
        name: metrics.clustered_interval(right[aspect == name], decided.cluster[aspect == name])
        for name in heads.weights
        if (aspect == name).any()
    }
