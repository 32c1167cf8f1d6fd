"""The page: figures, plots and texts in one HTML file, styles and pictures included."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from service.bundle.calibration import Calibration
from service.bundle.manifest import Provenance
from training.config import TrainingConfig
from training.evaluation.analysis import Analysis
from training.evaluation.evaluate import Evaluation, JudgedPairs
from training.evaluation.metrics import FEW_CLUSTERS, FloatArray, Interval
from training.evaluation.report import plots
from training.evaluation.slices import BY_LONGER


@dataclass(frozen=True)
class Subject:
    """What the page is about.

    Attributes:
        name, base_model, heads, max_tokens: of the model.
        text_format_sha256: of prompts and responses as tokens.
        data: the account of the run's data, as its `data.json`.
        provenance: of the weights.
    """

    name: str
    base_model: str
    heads: tuple[str, ...]
    max_tokens: int
    text_format_sha256: str
    data: dict[str, Any]
    provenance: Provenance

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "provenance": self.provenance.model_dump(mode="json")}


@dataclass(frozen=True)
class Responses:
    """All held-out responses beside those of their prompts.

    Attributes:
        scores: (R,) rewards less the mean of their prompt.
        lengths: (R,) characters in parts of the mean of their prompt, an empty one counting as one character.
    """

    scores: FloatArray
    lengths: FloatArray


def page(
    subject: Subject,
    evaluation: Evaluation,
    analysis: Analysis,
    calibration: Calibration,
    decided: JudgedPairs,
    responses: Responses,
) -> str:
    """The report as HTML.

    Args:
        subject: whose report it is.
        evaluation, analysis: the figures.
        calibration: of the model.
        decided: the pairs with a majority, for the plots.
        responses: that were scored.
    """
    environment = Environment(
        loader=PackageLoader("training.evaluation.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "interval": _interval,
        "percent": _percent,
        "signed": _signed,
        "number": _number,
        "points": _points,
        "deviations": _deviations,
    }
    return environment.get_template("page.html.jinja").render(
        subject=subject,
        e=evaluation,
        a=analysis,
        calibration=calibration,
        few=FEW_CLUSTERS,
        seeds=_seeds(subject.provenance),
        trained_with=_trained_with(TrainingConfig.model_validate(subject.provenance.configuration)),
        marked=any(interval.too_narrow for interval in _intervals([evaluation, analysis])),
        plots={name: Markup(svg) for name, svg in _plots(evaluation, analysis, decided, responses).items()},
    )


def _plots(evaluation: Evaluation, analysis: Analysis, decided: JudgedPairs, responses: Responses) -> dict[str, str]:
    drawn = {
        "reliability": plots.reliability_diagram(evaluation.reliability),
        "margins": plots.margins(decided, evaluation.temperature),
        "length": plots.score_against_length(responses.scores, responses.lengths),
        **{
            f"slice {name}": plots.slice_chart(parts, evaluation.accuracy.value, rule=name != BY_LONGER)
            for name, parts in analysis.slices.items()
        },
    }
    if analysis.best_of_n is not None:
        drawn["best of n"] = plots.best_of_n_curve(analysis.best_of_n)
    if analysis.disagreement is not None:
        drawn["disagreement"] = plots.disagreement_chart(analysis.disagreement)
    if analysis.probes is not None and analysis.probes.changes:
        drawn["probes"] = plots.probe_chart(analysis.probes.changes)
    return drawn


def responses_of(scores: Sequence[FloatArray], lengths: Sequence[Sequence[int]]) -> Responses:
    """From what each example has."""
    characters = [np.maximum(1, np.array(part)) for part in lengths]
    return Responses(
        np.concatenate([part - part.mean() for part in scores]),
        np.concatenate([part / part.mean() for part in characters]),
    )


def _trained_with(config: TrainingConfig) -> str:
    """What a reader asks first of how it was trained; the rest is in the configuration."""
    if not config.optimiser.epochs:
        return "nothing: the reward model as it came"
    parts = [config.loss.kind, f"{config.optimiser.epochs:g} epochs", f"rate {config.optimiser.learning_rate:g}"]
    if config.model.head == "pretrained":
        parts.insert(0, "from its own head")
    if config.model.lora_rank:
        parts.append(f"LoRA of rank {config.model.lora_rank}")
    if config.model.frozen_layers is not None:
        parts.append(f"embeddings and {config.model.frozen_layers} layers frozen")
    if config.loss.length_residual:
        parts.append("length residual")
    if config.data.annotators != "equal":
        parts.append(config.data.annotators)
    return ", ".join(parts)


def _seeds(provenance: Provenance) -> str:
    if not provenance.averaged:
        return str(provenance.seed)
    return f"{', '.join(str(each.seed) for each in provenance.averaged)} (mean of the weights of these trainings)"


def _intervals(value: Any) -> Iterator[Interval]:
    """Every interval in dataclasses, lists and dictionaries, however deep."""
    if isinstance(value, Interval):
        yield value
    elif is_dataclass(value):
        yield from _intervals(list(vars(value).values()))
    elif isinstance(value, dict):
        yield from _intervals(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _intervals(part)


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.2f}"


def _number(interval: Interval | None) -> str:
    return _with_spread(interval, "{:.3f}".format)


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _interval(interval: Interval | None) -> str:
    return _with_spread(interval, lambda share: f"{100 * share:.1f}", " %")


def _points(interval: Interval | None) -> str:
    """A difference of shares."""
    return _with_spread(interval, lambda share: f"{100 * share:+.1f}", " points")


def _deviations(interval: Interval | None) -> str:
    return _with_spread(interval, "{:+.2f}".format, " sd")


def _with_spread(interval: Interval | None, show: Callable[[float], str], unit: str = "") -> str:
    if interval is None:
        return "none"
    mark = "*" if interval.too_narrow else ""
    return f"{show(interval.value)}{unit} ({show(interval.low)} to {show(interval.high)}){mark}"
