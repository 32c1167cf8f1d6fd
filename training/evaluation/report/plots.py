"""The plots of the report, as SVG text. Legible in black and white: shapes and line styles tell things apart."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.special import expit

from training.evaluation.best_of_n import BestOfN
from training.evaluation.disagreement import Disagreement
from training.evaluation.evaluate import JudgedPairs
from training.evaluation.metrics import Bin, FloatArray
from training.evaluation.probes import Probe
from training.evaluation.slices import Slice

_BLACK, _GREY, _LIGHT = "#111111", "#777777", "#cccccc"
_MOST_POINTS = 3000
_MOST_NAME = 40


class Plot:
    """A figure that is drawn on in a `with` block, and its SVG afterwards."""

    svg: str = ""
    axes: Axes


@contextmanager
def _plot(width: float, height: float, x: str, y: str) -> Iterator[Plot]:
    with matplotlib.rc_context({"svg.hashsalt": "assay", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        plot = Plot()
        plot.axes = figure.subplots()
        plot.axes.set(xlabel=x, ylabel=y)
        plot.axes.spines[["top", "right"]].set_visible(False)
        yield plot
        stream = io.StringIO()
        with warnings.catch_warnings():  # a browser has glyphs that the font here lacks; the text stays text
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
        plot.svg = text[text.index("<svg") :]


def _plain(name: str) -> str:
    """A name that is not read as mathematics, and leaves room for the plot."""
    shown = name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"
    return shown.replace("$", r"\$")


def reliability_diagram(bins: Sequence[Bin]) -> str:
    """Share of votes for the side that the model prefers, against its confidence; the size shows the pairs."""
    with _plot(4.2, 3.6, "confidence in the preferred side", "share of votes for that side") as plot:
        plot.axes.plot([0.5, 1], [0.5, 1], color=_GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        confidence, observed = [part.confidence for part in bins], [part.observed for part in bins]
        largest = max(part.pairs for part in bins)
        plot.axes.plot(confidence, observed, color=_BLACK, linewidth=1)
        sizes = [15 + 120 * part.pairs / largest for part in bins]
        plot.axes.scatter(confidence, observed, s=sizes, facecolor="white", edgecolor=_BLACK, zorder=3)
        for part in bins:
            plot.axes.annotate(
                str(part.pairs),
                (part.confidence, part.observed),
                xytext=(7, -9),
                textcoords="offset points",
                fontsize=7,
            )
        plot.axes.set(xlim=(0.48, 1.02), ylim=(min(0.4, *observed) - 0.03, 1.03))
        plot.axes.legend(frameon=False, loc="upper left")
    return plot.svg


def score_against_length(scores: FloatArray, lengths: FloatArray, seed: int = 0) -> str:
    """Every response by how long it is and how it scores among those of its prompt, with means of equal tenths.

    Args:
        scores: (R,) less the mean of the prompt: between prompts they say nothing.
        lengths: (R,) in parts of the prompt's mean, > 0.
        seed: of which points are shown, of more than 3,000.
    """
    with _plot(4.6, 3.6, "length, as a multiple of the prompt's mean", "score, less the prompt's mean") as plot:
        order = np.argsort(lengths, kind="stable")
        shown = np.random.default_rng(seed).permutation(len(scores))[:_MOST_POINTS]
        plot.axes.scatter(lengths[shown], scores[shown], s=5, color=_LIGHT, rasterized=False)
        parts = [part for part in np.array_split(order, 10) if len(part)]
        means = [(float(lengths[part].mean()), float(scores[part].mean())) for part in parts]
        plot.axes.plot(*zip(*means, strict=True), color=_BLACK, marker="o", markersize=4, label="mean of each tenth")
        plot.axes.set_xscale("log")
        plot.axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plot.axes.xaxis.set_major_formatter("{x:g}")
        plot.axes.xaxis.set_minor_formatter(NullFormatter())
        plot.axes.legend(frameon=False, loc="best")
    return plot.svg


def margins(pairs: JudgedPairs, temperature: float) -> str:
    """Probability that the model gives to what people preferred: to the left of the middle it is wrong."""
    sign = np.sign(pairs.preference - 0.5)
    probability = expit(pairs.margin * sign / temperature)
    with _plot(4.2, 3.0, "probability given to the preferred response", "pairs") as plot:
        for part, hatch, label in ((probability < 0.5, "////", "wrong"), (probability >= 0.5, "", "right")):
            plot.axes.hist(probability[part], bins=np.linspace(0, 1, 21).tolist(), facecolor="white", edgecolor=_BLACK,
                           hatch=hatch, label=label)  # fmt: skip
        plot.axes.legend(frameon=False, loc="upper left")
    return plot.svg


def slice_chart(parts: Sequence[Slice], overall: float, rule: bool = True) -> str:
    """Accuracy of each part with its interval, the length rule below it, which `rule` may leave out."""
    with _plot(6.4, 0.9 + 0.32 * len(parts), "accuracy, %", "") as plot:
        places = np.arange(len(parts))[::-1]
        values = np.array([part.accuracy.value for part in parts]) * 100
        low = values - np.array([part.accuracy.low for part in parts]) * 100
        high = np.array([part.accuracy.high for part in parts]) * 100 - values
        plot.axes.axvline(overall * 100, color=_GREY, linestyle="--", linewidth=1, label="all pairs")
        plot.axes.errorbar(
            values, places, xerr=[low.clip(0), high.clip(0)], fmt="o", color=_BLACK, capsize=2, label="model"
        )
        plot.axes.axvline(50, color=_LIGHT, linewidth=1, zorder=0, label="a coin")
        if rule:
            longer = [100 * part.length_rule for part in parts]
            plot.axes.plot(longer, places - 0.22, "x", color=_GREY, markersize=5, label="the longer wins")
        plot.axes.set_yticks(
            places, [f"{_plain(part.name)} ({part.pairs}){'*' if part.accuracy.too_narrow else ''}" for part in parts]
        )
        plot.axes.set(xlim=(-2, 102), ylim=(-0.7, len(parts) - 0.3))
        plot.axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return plot.svg


def best_of_n_curve(curve: BestOfN) -> str:
    """What is chosen among n responses, by people's votes, against n."""
    with _plot(4.6, 3.4, "n responses to choose from", "share of votes won by the choice") as plot:
        numbers = [choice.n for choice in curve.choices]
        plot.axes.plot(numbers, [choice.best for choice in curve.choices], "--s", color=_GREY, label="people's own")
        values = np.array([choice.model.value for choice in curve.choices])
        low = values - np.array([choice.model.low for choice in curve.choices])
        high = np.array([choice.model.high for choice in curve.choices]) - values
        plot.axes.errorbar(
            numbers, values, yerr=[low.clip(0), high.clip(0)], fmt="-o", color=_BLACK, capsize=2, label="the model's"
        )
        plot.axes.plot(numbers, [choice.length for choice in curve.choices], ":x", color=_GREY, label="the longest")
        plot.axes.set_xscale("log", base=2)
        plot.axes.set_xticks(numbers, [str(number) for number in numbers])
        plot.axes.legend(frameon=False, loc="best")
    return plot.svg


def disagreement_chart(found: Disagreement) -> str:
    """How often an ensemble errs, by fifths of its members' deviation."""
    with _plot(4.2, 3.2, "d, standard deviation of the members' margins", "share of errors, %") as plot:
        errors = np.array([group.error.value for group in found.groups]) * 100
        low = errors - np.array([group.error.low for group in found.groups]) * 100
        high = np.array([group.error.high for group in found.groups]) * 100 - errors
        places = [group.deviation for group in found.groups]
        plot.axes.errorbar(places, errors, yerr=[low.clip(0), high.clip(0)], fmt="-o", color=_BLACK, capsize=2)
        plot.axes.set_ylim(bottom=0)
    return plot.svg


def probe_chart(probes: Sequence[Probe]) -> str:
    """Mean change of the score by each change of the response, with its interval; grey where it is of few prompts."""
    with _plot(6.4, 0.9 + 0.32 * len(probes), "mean change of the score, standard deviations", "") as plot:
        places = np.arange(len(probes))[::-1]
        values = np.array([probe.mean_change.value for probe in probes])
        low = values - np.array([probe.mean_change.low for probe in probes])
        high = np.array([probe.mean_change.high for probe in probes]) - values
        colours = [_LIGHT if probe.mean_change.too_narrow else "white" for probe in probes]
        hatches = ["" if probe.wanted == "lower" else "////" for probe in probes]
        plot.axes.barh(places, values, height=0.6, facecolor=colours, edgecolor=_BLACK, hatch=hatches)
        plot.axes.errorbar(
            values, places, xerr=[low.clip(0), high.clip(0)], fmt="none", color=_BLACK, capsize=2, linewidth=1
        )
        plot.axes.axvline(0, color=_BLACK, linewidth=1)
        plot.axes.set_yticks(
            places, [f"{probe.name} (wanted: {probe.wanted}; n = {probe.responses})" for probe in probes]
        )
    return plot.svg
