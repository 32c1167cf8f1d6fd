"""From scored examples to the figures of a report."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from service.bundle.calibration import Calibration
from training.data.record import Judgement
from training.evaluation import metrics
from training.evaluation.agreement import annotator_accuracy
from training.evaluation.length_bias import length_trend
from training.evaluation.metrics import Bin, FloatArray, Interval
from training.examples import Example

LEAST_PROMPTS = 5
"""Prompts that a category must have for its accuracy to be given: an interval over fewer would only look sure."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class JudgedPairs:
    """Every judgement of some examples beside the scores of its two responses; all arrays (P,).

    Attributes:
        cluster: number of the prompt, or of the group of prompts, that the judgement belongs to. An interval must draw
            these: judgements of one prompt are right or wrong together, in however many records they come.
        example, judgement: numbers of the example that holds it, and of the judgement in it.
        i_wins, j_wins, ties: votes.
    """

    score_i: FloatArray
    score_j: FloatArray
    preference: FloatArray
    length_i: npt.NDArray[np.int64]
    length_j: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]
    example: npt.NDArray[np.int64]
    judgement: npt.NDArray[np.int64]
    i_wins: FloatArray
    j_wins: FloatArray
    ties: FloatArray

    @property
    def votes(self) -> FloatArray:
        """All votes on a pair."""
        return self.i_wins + self.j_wins + self.ties

    @property
    def margin(self) -> FloatArray:
        """score_i - score_j."""
        return self.score_i - self.score_j

    def select(self, mask: npt.NDArray[np.bool_]) -> "JudgedPairs":
        """The pairs where `mask` (P,) is true."""
        return JudgedPairs(**{name: array[mask] for name, array in vars(self).items()})


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one set of pairs. Accuracies leave out pairs whose votes tie.

    Attributes:
        prompts, pairs, ties: how many prompts (those of one group count once), judged pairs, and pairs among them
            whose votes tie.
        accuracy: with an interval clustered by prompt.
        log_loss, brier: at temperature 1, in nats and squared probability.
        ece_before, ece_after: expected calibration error at temperature 1, and at `temperature`.
        temperature: fitted on the validation pairs, never on these.
        length_rule: accuracy of "the longer one wins" (characters).
        matched_pairs: decided pairs within 25 % of each other's length.
        length_matched, length_rule_matched: accuracy of model and rule on those; none without such pairs.
        length_residual: accuracy of what is left of the margins without their local regression on length; none where
            there are too few pairs.
        voted_pairs: decided pairs of enough votes to hold one annotator against the others.
        annotator, model_on_voted: on those, accuracy of an annotator against the majority of the others, and of the
            model against the majority.
        reliability: confidence and observed share at `temperature`.
        spearman_length: rank correlation of score with length within a prompt (responses centred by prompt);
            none where one of them does not vary.
        truncated: share of items that were cut to fit.
        by_category: accuracy of each category of at least `LEAST_PROMPTS` prompts, where the data name categories.
    """

    prompts: int
    pairs: int
    ties: int
    accuracy: Interval
    log_loss: float
    brier: float
    ece_before: float
    ece_after: float
    temperature: float
    length_rule: Interval
    matched_pairs: int
    length_matched: Interval | None
    length_rule_matched: Interval | None
    spearman_length: float | None
    truncated: float
    by_category: dict[str, Interval]
    length_residual: Interval | None = None
    voted_pairs: int = 0
    annotator: Interval | None = None
    model_on_voted: Interval | None = None
    reliability: list[Bin] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def brief(self) -> dict[str, float | int]:
        """What the manifest says of the evaluation."""
        return {
            "prompts": self.prompts,
            "pairs": self.pairs,
            "accuracy": self.accuracy.value,
            "accuracy_low": self.accuracy.low,
            "accuracy_high": self.accuracy.high,
            "length_rule": self.length_rule.value,
            "log_loss": self.log_loss,
            "ece": self.ece_after,
        }


def prompt_numbers(examples: Sequence[Example]) -> list[int]:
    """Of each example, the number of its prompt, or of the group that its prompt was split with."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(example.record.split_key, len(numbers)) for example in examples]


def judged_pairs(
    examples: Sequence[Example], scores: Sequence[FloatArray], column: Callable[[Judgement], int] | None = None
) -> JudgedPairs:
    """Line up judgements with scores.

    Args:
        examples: with their judgements.
        scores: for each (responses,) as `training.scoring.score_examples` gives them; with `column` (responses, heads)
            as `score_heads` does.
        column: which head answers for a judgement.
    """
    rows = [
        (
            *(
                values[[judgement.i, judgement.j]]
                if column is None
                else values[[judgement.i, judgement.j], column(judgement)]
            ),
            judgement.soft_label,
            len(example.record.responses[judgement.i]),
            len(example.record.responses[judgement.j]),
            cluster,
            number,
            place,
            judgement.i_wins,
            judgement.j_wins,
            judgement.ties,
        )
        for number, (cluster, example, values) in enumerate(
            zip(prompt_numbers(examples), examples, scores, strict=True)
        )
        for place, judgement in enumerate(example.record.judgements)
    ]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 11).T
    return JudgedPairs(*columns[:3], *(column.astype(np.int64) for column in columns[3:8]), *columns[8:])


def evaluate(examples: Sequence[Example], scores: Sequence[FloatArray], temperature: float) -> Evaluation:
    """All figures of one set.

    Raises:
        ValueError: no pair has a majority, so there is no accuracy.
    """
    pairs = judged_pairs(examples, scores)
    prompts = prompt_numbers(examples)
    decided = pairs.select(pairs.preference != 0.5)
    if len(decided.margin) == 0:
        raise ValueError("no judged pair has a majority: there is nothing to measure accuracy on")
    right = metrics.correct(decided.margin, decided.preference)
    rule = metrics.correct(metrics.length_margin(decided.length_i, decided.length_j), decided.preference)
    matched = metrics.length_matched(decided.length_i, decided.length_j)

    def interval(values: FloatArray, mask: npt.NDArray[np.bool_]) -> Interval:
        return metrics.clustered_interval(values[mask], decided.cluster[mask])

    trend = length_trend(decided.margin, decided.length_i, decided.length_j)
    foreseen = annotator_accuracy(decided.i_wins, decided.j_wins, decided.ties)
    voted = np.isfinite(foreseen)
    everything = np.ones(len(right), dtype=np.bool_)
    category = np.array([examples[number].record.category or "" for number in decided.example])
    items = sum(len(example.items) for example in examples)
    return Evaluation(
        prompts=len(set(prompts)),
        pairs=len(pairs.margin),
        ties=len(pairs.margin) - len(right),
        accuracy=interval(right, everything),
        log_loss=metrics.log_loss(pairs.margin, pairs.preference),
        brier=metrics.brier(pairs.margin, pairs.preference),
        ece_before=metrics.calibration_error(pairs.margin, pairs.preference),
        ece_after=metrics.calibration_error(pairs.margin, pairs.preference, temperature),
        temperature=temperature,
        length_rule=interval(rule, everything),
        matched_pairs=int(matched.sum()),
        length_matched=interval(right, matched) if matched.any() else None,
        length_rule_matched=interval(rule, matched) if matched.any() else None,
        length_residual=None
        if trend is None
        else interval(metrics.correct(decided.margin - trend, decided.preference), everything),
        voted_pairs=int(voted.sum()),
        annotator=interval(foreseen, voted) if voted.any() else None,
        model_on_voted=interval(right, voted) if voted.any() else None,
        reliability=metrics.reliability(pairs.margin, pairs.preference, temperature),
        spearman_length=_within_prompt_spearman(examples, scores, prompts),
        truncated=sum(item.removed > 0 for example in examples for item in example.items) / items,
        by_category={
            str(name): interval(right, category == name)
            for name in sorted(set(category) - {""})
            if len(set(decided.cluster[category == name])) >= LEAST_PROMPTS
        },
    )


def calibrate(examples: Sequence[Example], scores: Sequence[FloatArray]) -> Calibration:
    """Centre, spread, temperature and quantiles of the scores on reference (validation) examples.

    Raises:
        ValueError: all scores are equal, so there is no scale.
    """
    pairs = judged_pairs(examples, scores)
    raw = np.concatenate(list(scores))
    if not raw.std() > 0:
        raise ValueError("all reference responses have the same score: the model has learned nothing")
    return Calibration(
        centre=float(raw.mean()),
        scale=float(raw.std()),
        temperature=metrics.fit_temperature(pairs.margin, pairs.preference),
        quantiles={str(q): float(np.quantile(raw, q)) for q in QUANTILES},
    )


def _within_prompt_spearman(
    examples: Sequence[Example], scores: Sequence[FloatArray], prompts: Sequence[int]
) -> float | None:
    lengths = [np.array([len(text) for text in example.record.responses], dtype=np.float64) for example in examples]
    prompt = np.repeat(prompts, [len(length) for length in lengths])

    def centred(values: Sequence[FloatArray]) -> FloatArray:
        every = np.concatenate(list(values))
        means: FloatArray = np.bincount(prompt, every) / np.bincount(prompt)
        differences: FloatArray = every - means[prompt]
        return differences

    return metrics.spearman(centred(scores), centred(lengths))
