"""The figures of an evaluation as a page that can be read in a minute (Markdown)."""

from training.evaluation.evaluate import Evaluation
from training.evaluation.metrics import FEW_CLUSTERS, Interval


def summary(name: str, evaluation: Evaluation) -> str:
    """Markdown of the evaluation of the model `name`."""
    e = evaluation
    rows = [("accuracy", _percent(e.accuracy))]
    if e.annotator is not None:
        rows += [
            (f"an annotator agrees with the majority of the others ({e.voted_pairs} pairs)", _percent(e.annotator)),
            ("the model in their place", _percent(e.model_as_annotator)),
        ]
    rows += [
        ("the longer answer wins (rule)", _percent(e.length_rule)),
        (f"accuracy on {e.matched_pairs} pairs of similar length", _percent(e.length_matched)),
        ("the rule on those", _percent(e.length_rule_matched)),
        ("accuracy without what length explains", _percent(e.length_residual)),
        (f"log loss (nats; a coin: 0.693, the votes themselves: {e.log_loss_votes:.3f})", f"{e.log_loss:.3f}"),
        (f"Brier score (a coin: {e.brier_coin:.3f})", f"{e.brier:.3f}"),
        ("calibration error, before and after temperature", f"{e.ece_before:.3f}, {e.ece_after:.3f}"),
        (
            "temperature (fitted on validation)",
            f"{e.temperature:.3f}" + ("" if e.bound_reason is None else f", its bound: {e.bound_reason}"),
        ),
        (
            "rank correlation of score and length within a prompt",
            "none" if e.spearman_length is None else f"{e.spearman_length:+.2f}",
        ),
        ("items cut to fit", f"{100 * e.truncated:.1f} %"),
    ]
    lines = [
        f"# Evaluation of {name}",
        "",
        f"{e.pairs} judged pairs of {e.prompts} held-out prompts, {e.ties} of them ties. Accuracies are over pairs "
        "with a majority; intervals are 95 %, bootstrapped over prompts.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {label} | {value} |" for label, value in rows),
        "",
    ]
    if e.by_category:
        lines += ["| category | accuracy |", "|---|---|"]
        lines += [f"| {category} | {_percent(interval)} |" for category, interval in e.by_category.items()]
        lines.append("")
    intervals = [value for value in vars(e).values() if isinstance(value, Interval)]
    shown = (*intervals, *e.by_category.values())
    if few := [interval.clusters for interval in shown if interval is not None and interval.too_narrow]:
        lines += [
            f"\\* Drawn over fewer than {FEW_CLUSTERS} independent prompts (the least: {min(filter(None, few))}): such "
            "an interval is too narrow, so the figure is less sure than it looks.",
            "",
        ]
    verdict = (
        "The accuracy is above a coin's and above either rule of length."
        if e.verdict is None
        else f"**The accuracy {e.verdict}: do not rely on this model without more data.**"
    )
    if e.caveat is not None:
        verdict += f" **{e.caveat}**"
    return "\n".join([*lines, verdict, ""])


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return "none"
    mark = r" \*" if interval.too_narrow else ""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f}){mark}"
