"""A comparison of two runs as text (Markdown)."""

from training.evaluation.compare import Comparison, Difference

_CLEAR = 0.05


def comparison_text(name_a: str, name_b: str, comparison: Comparison) -> str:
    """Markdown of the comparison of the models `name_a` and `name_b`."""
    c = comparison
    parts = [c.every, *c.by_source]
    several = len(parts) - 1
    lines = [
        f"# {name_a} (A) and {name_b} (B)",
        "",
        f"{c.every.pairs} decided pairs of {c.every.prompts} prompts that both have scored"
        + (
            f" ({c.only_in_a} pairs are in A's test alone, {c.only_in_b} in B's)."
            if c.only_in_a or c.only_in_b
            else "."
        ),
        "",
        "| pairs | A | B | B - A, points (95 %) | p | only A right | only B right |",
        "|---|---|---|---|---|---|---|",
        *map(_row, parts),
        "",
        f"Log loss at each model's temperature: {c.log_loss_a:.3f} and {c.log_loss_b:.3f} nats, B - A "
        f"{c.log_loss_difference.value:+.3f} ({c.log_loss_difference.low:+.3f} to {c.log_loss_difference.high:+.3f}), "
        f"p {c.log_loss_p_value:.2g}. Intervals are "
        "bootstrapped over prompts; p is of a permutation test that lets the models change places prompt by prompt."
        + (
            f" {several} sources are tested besides: of as many, one in twenty looks different by chance."
            if several
            else ""
        ),
        "",
        _verdict(c.every),
        "",
    ]
    return "\n".join(lines)


def _row(d: Difference) -> str:
    difference = d.difference
    mark = r" \*" if difference.too_narrow else ""
    return (
        f"| {d.name} ({d.pairs} of {d.prompts} prompts) | {100 * d.accuracy_a:.1f} % | {100 * d.accuracy_b:.1f} % "
        f"| {100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f}){mark} "
        f"| {d.p_value:.2g} | {d.only_a:g} | {d.only_b:g} |"
    )


def _verdict(every: Difference) -> str:
    if every.p_value > _CLEAR or every.difference.low <= 0 <= every.difference.high:
        return "**No difference in accuracy is shown: these pairs do not tell which model is better.**"
    better = "B" if every.difference.value > 0 else "A"
    return f"{better} is more accurate on these pairs."
