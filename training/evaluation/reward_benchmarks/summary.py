"""The figures of a benchmark as text (Markdown)."""

from training.evaluation.reward_benchmarks.results import Result

_TITLES = {"rewardbench": "RewardBench", "rewardbench2": "RewardBench 2", "rm-bench": "RM-Bench"}


def benchmark_summary(name: str, result: Result) -> str:
    """Markdown of what the model `name` got."""
    lines = [f"# {name} on {_TITLES[result.benchmark]} ({result.tasks} tasks)", "", "| section | score |", "|---|---|"]
    lines += [f"| {section} | {100 * value:.1f} |" for section, value in result.sections.items()]
    if result.overall is not None:
        lines.append(f"| **overall** | **{100 * result.overall:.1f}** |")
    lines += [f"| {detail} | {100 * value:.1f} |" for detail, value in result.details.items()]
    lines += ["", "| subset | accuracy, % (95 %) |", "|---|---|"]
    lines += [
        f"| {group} | {100 * i.value:.1f} ({100 * i.low:.1f} to {100 * i.high:.1f}) |"
        for group, i in result.groups.items()
    ]
    lines.append("")
    if result.cut:
        lines += [f"{result.cut} responses were cut to fit the model.", ""]
    if result.missing:
        lines += [f"Not the whole benchmark: the file has no task of {', '.join(result.missing)}.", ""]
    if result.unknown:
        lines += [f"In no section, as the benchmark has no such subset: {', '.join(result.unknown)}.", ""]
    return "\n".join(lines)
