"""From scored examples to the figures of a report."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service.bundle.calibration import Calibration
from training.data.record import Judgement
from training.encoding import Example
from training.evaluation import metrics
from training.evaluation.agreement import annotator_accuracy, model_as_annotator
from training.evaluation.length_bias import length_trend
from training.evaluation.metrics import Bin, FloatArray, Interval

LEAST_FOR_A_VERDICT = 6
"""Prompts without which no two-sided sign test reaches 5 %: a coin gets five alike in a sixteenth of the cases."""

LEAST_PROMPTS = 5
"""Prompts that a category must have for its accuracy to be given: an interval over fewer would only look sure."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


Column = Callable[[Judgement], int]
"""Which head answers for a judgement."""


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
        voted_pairs: pairs of enough votes to hold one annotator against the others.
        annotator, model_as_annotator: on those, how often an annotator agrees with the majority of the others, and how
            often the model does in their place.
        brier_coin, log_loss_votes: what a coin gets, and the least that there is: the entropy of the vote shares.
        rule: which of the two rules of length is right more often on these pairs.
        above_rule: the model's accuracy less that of this rule, paired.
        reliability: confidence and observed share at `temperature`.
        spearman_length: rank correlation of score with length within a prompt (responses centred by prompt);
            none where one of them does not vary.
        truncated: share of items that were cut to fit.
        by_category: accuracy of each category of at least `LEAST_PROMPTS` prompts, where the data name categories.
        learnt_prompts: how many of the prompts the model has learnt from; none where that is not known.
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
    model_as_annotator: Interval | None = None
    brier_coin: float = 0.25
    log_loss_votes: float = 0.0
    rule: Literal["longer", "shorter"] = "longer"
    above_rule: Interval | None = None
    reliability: list[Bin] = field(default_factory=list)
    learnt_prompts: int | None = None

    @property
    def verdict(self) -> str | None:
        """Why not to rely on the model, or None: it must be better than a coin and than either rule of length."""
        if self.accuracy.low <= 0.5:
            return "is not clearly above a coin's"
        if (self.accuracy.clusters or LEAST_FOR_A_VERDICT) < LEAST_FOR_A_VERDICT:
            return f"is of fewer than {LEAST_FOR_A_VERDICT} prompts, which luck can get right"
        if self.above_rule is not None and self.above_rule.low <= 0:
            return f"is not clearly above the rule that the {self.rule} answer wins"
        return None

    @property
    def caveat(self) -> str | None:
        """What figures do not tell: that the model knows what it is tested on, or that nobody knows whether it does."""
        if self.learnt_prompts is None:
            return (
                "Whether the model has learnt from some of the prompts is not known: if so, the figures are too good."
            )
        if self.learnt_prompts:
            known = f"{self.learnt_prompts} of the {self.prompts} prompts"
            return f"But the model has learnt from {known}, their dialogues or groups: the figures are too good."
        return None

    @property
    def bound_reason(self) -> str | None:
        """See `training.evaluation.metrics.bound_reason`."""
        return metrics.bound_reason(self.temperature)

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
    examples: Sequence[Example], scores: Sequence[FloatArray], column: Column | None = None
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


def evaluate(
    examples: Sequence[Example], scores: Sequence[FloatArray], temperature: float, column: Column | None = None
) -> Evaluation:
    """All figures of one set; `scores` and `column` as `judged_pairs` takes them.

    Raises:
        ValueError: no pair has a majority, so there is no accuracy.
    """
    pairs = judged_pairs(examples, scores, column)
    prompts = prompt_numbers(examples)
    decided = pairs.select(pairs.preference != 0.5)
    if len(decided.margin) == 0:
        raise ValueError("no judged pair has a majority: there is nothing to measure accuracy on")
    right = metrics.correct(decided.margin, decided.preference)
    rule = metrics.correct(metrics.length_margin(decided.length_i, decided.length_j), decided.preference)
    matched = metrics.length_matched(decided.length_i, decided.length_j)
    trend = length_trend(decided.margin, decided.length_i, decided.length_j)
    votes = pairs.i_wins, pairs.j_wins, pairs.ties
    one, model = annotator_accuracy(*votes), model_as_annotator(pairs.margin, *votes)
    voted = np.isfinite(one)
    better_rule = rule if rule.mean() >= 0.5 else 1 - rule

    def interval(values: FloatArray, mask: npt.NDArray[np.bool_]) -> Interval:
        return metrics.clustered_interval(values[mask], decided.cluster[mask])

    everything = np.ones(len(right), dtype=np.bool_)
    category = np.array([examples[number].record.category or "" for number in decided.example])
    score, length, _ = within_prompt(examples, [_rewards(part) for part in scores])
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
        annotator=metrics.clustered_interval(one[voted], pairs.cluster[voted]) if voted.any() else None,
        model_as_annotator=metrics.clustered_interval(model[voted], pairs.cluster[voted]) if voted.any() else None,
        brier_coin=metrics.brier(np.zeros(len(pairs.margin)), pairs.preference),
        log_loss_votes=metrics.entropy(pairs.preference),
        rule="longer" if rule.mean() >= 0.5 else "shorter",
        above_rule=interval(right - better_rule, everything),
        reliability=metrics.reliability(pairs.margin, pairs.preference, temperature),
        spearman_length=metrics.spearman(score, length),
        truncated=sum(item.removed > 0 for example in examples for item in example.items) / items,
        by_category={
            str(name): interval(right, category == name)
            for name in sorted(set(category) - {""})
            if len(set(decided.cluster[category == name])) >= LEAST_PROMPTS
        },
    )


def calibrate(examples: Sequence[Example], scores: Sequence[FloatArray], column: Column | None = None) -> Calibration:
    """Centre, spread, temperature and quantiles of the rewards on reference (validation) examples.

    `scores` and `column` as `judged_pairs` takes them.

    Raises:
        ValueError: all scores are equal, so there is no scale.
    """
    pairs = judged_pairs(examples, scores, column)
    raw = np.concatenate([_rewards(part) for part in scores])
    if not raw.std() > 0:
        raise ValueError("all reference responses have the same score: the model has learned nothing")
    return Calibration(
        centre=float(raw.mean()),
        scale=float(raw.std()),
        temperature=metrics.fit_temperature(pairs.margin, pairs.preference),
        quantiles={str(q): float(np.quantile(raw, q)) for q in QUANTILES},
    )


def _rewards(scores: FloatArray) -> FloatArray:
    """(responses,) of (responses,) or (responses, heads)."""
    return scores if scores.ndim == 1 else scores[:, 0]


def within_prompt(
    examples: Sequence[Example], rewards: Sequence[FloatArray]
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Reward and length in characters of every response, less the mean of its prompt, and the number of what it belongs
    to in an interval: its group, which may hold several prompts.
    """
    lengths = [np.array([len(text) for text in example.record.responses], dtype=np.float64) for example in examples]
    counts = [len(length) for length in lengths]
    places: dict[str, int] = {}
    own = [example.record.prompt_key if example.record.has_prompt else example.record.id for example in examples]
    prompt = np.repeat([places.setdefault(key, len(places)) for key in own], counts)

    def centred(values: Sequence[FloatArray]) -> FloatArray:
        every = np.concatenate(list(values))
        means: FloatArray = np.bincount(prompt, every) / np.bincount(prompt)
        differences: FloatArray = every - means[prompt]
        return differences

    return centred(rewards), centred(lengths), np.repeat(prompt_numbers(examples), counts)
