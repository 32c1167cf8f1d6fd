"""Write the tables of three READMEs from the committed results, between their markers.

    python -m benchmarks.tables [--check]

The project's README gets a choice of claims, and how many hold of all; that of the benchmarks gets all claims, those
that only support others, the figures without a target, and the notes; that of the training what concerns it.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.result import RESULTS

README = RESULTS.parent.parent / "README.md"
BENCHMARKS_README = RESULTS.parent / "README.md"
TRAINING_README = README.parent / "training" / "README.md"
_TRAINING = ("accuracy_", "study_", "training_", "averaging_", "data_at_scale")
"""How the names of results begin that the training's README shows."""
START, END = "<!-- results: made by `python -m benchmarks.tables` -->", "<!-- end of results -->"


SHOWN = {
    "frameworks": (),
    "feedback_ppo": ("ppo, seed 0: the score on 128 held-out prompts rises",),
    "accuracy_convarg": (
        "convarg strict, each debate side held out: mean accuracy of the folds",
        "convarg strict, each debate side held out, pairs of similar length",
        "convarg strict, each debate side held out: calibration error",
    ),
    "served_parity": ("HTTP score against PyTorch fp32, 500 real pairs, 3 batch compositions",),
    "race_smollm2": (
        "smollm2, best-of-8: assay openvino bf16 to vllm",
        "smollm2, best-of-64: assay openvino bf16 to vllm",
    ),
    "race_minilm": ("minilm, mixed: assay openvino int8 to infinity optimum",),
    "training_minilm_convarg": ("training, minilm, convarg: pairs a second over TRL's RewardTrainer",),
    "training_smollm2_hh_harmless": ("training, smollm2, hh-harmless: pairs a second over TRL's RewardTrainer",),
    "packed_throughput": ("packed to padded, 8 responses, prompt 512, response 64",),
    "soak_minilm": ("30 minutes of mixed load: resident memory",),
}
"""The claims of the project's README by benchmark, whether they hold or not; all are in that of the benchmarks."""


def results() -> Iterator[dict[str, Any]]:
    """Every full result, by name of file."""
    for path in sorted(RESULTS.glob("*.json")):
        if not path.name.endswith(".quick.json"):
            yield json.loads(path.read_text(encoding="utf-8"))


def claims(detail: bool) -> list[str]:
    """A table of the targets that are claims of their own, or of those that are details of others."""
    lines = ["| claim | target | measured | held | command |", "|---|---|---|---|---|"]
    for result in results():
        for target in result["targets"]:
            if target.get("detail", False) == detail:
                lines.append(_line(*_cells(target, result), _command(result)))
    return lines


def summary() -> list[str]:
    """A table of the shown claims, and a line on how many hold of all."""
    lines = ["| claim | target | measured | held |", "|---|---|---|---|"]
    held, count = 0, 0
    for result in results():
        own = [target for target in result["targets"] if not target.get("detail", False)]
        count, held = count + len(own), held + sum(target["held"] for target in own)
        if result["benchmark"] == "frameworks":
            lines.append(_frameworks(own))
        shown = SHOWN.get(result["benchmark"], ())
        lines += [_line(*_cells(target, result)) for target in own if target["name"] in shown]
    return [*lines, "", f"{held} of {count} targets hold; [all of them, with commands](benchmarks/README.md)."]


def _cells(target: dict[str, Any], result: dict[str, Any]) -> tuple[str, ...]:
    """With the recipe of what was trained for it."""
    recipe = result["figures"].get("recipe", {}).get("name")
    name = target["name"] if recipe is None else f"{target['name']} (`{recipe}`)"
    return name, target["target"], target["figure"], "yes" if target["held"] else "**no**"


def _frameworks(targets: list[dict[str, Any]]) -> str:
    """One line for all callers."""
    got = [target for target in targets if target["held"]]
    callers = ", ".join(dict.fromkeys(target["name"].partition(" (")[0] for target in got))
    held = "yes" if len(got) == len(targets) else "**no**"
    return _line(
        "other systems' own code gets the native scores",
        targets[0]["target"],
        f"{len(got)} of {len(targets)}: {callers}",
        held,
    )


def parts() -> list[str]:
    """A table of the figures without a target."""
    lines = ["| part | measured | command |", "|---|---|---|"]
    for result in results():
        lines += [_line(row["name"], row["figure"], _command(result)) for row in result.get("rows", ())]
    return lines


def notes() -> list[str]:
    """What a reader of the figures must know."""
    return [f"- {note}" for result in results() for note in result.get("notes", ())]


def circumstances() -> str:
    """The machines, and where the rest is said."""
    machines = {
        f"{machine['cores']} cores of {machine['processor']}"
        f"{f', family {family}' if (family := machine.get('family')) else ''}{' with AMX' if machine['amx'] else ''}"
        for machine in (result["machine"] for result in results())
    }
    return (
        f"Measured on {'; '.join(sorted(machines))}. Seeds, versions, commits and spreads are in `benchmarks/results/`."
    )


def training() -> list[str]:
    """What was measured of training: claims, then figures without a target."""
    found = [result for result in results() if result["benchmark"].startswith(_TRAINING)]
    lines = ["| claim | target | measured | held |", "|---|---|---|---|"]
    lines += [
        _line(*_cells(target, result))
        for result in found
        for target in result["targets"]
        if not target.get("detail", False)
    ]
    lines += ["", "| part | measured |", "|---|---|"]
    return lines + [_line(row["name"], row["figure"]) for result in found for row in result.get("rows", ())]


def tables() -> dict[Path, str]:
    """The text between the markers of each README."""
    return {
        README: "\n".join([*summary(), "", circumstances()]),
        TRAINING_README: "\n".join(training()),
        BENCHMARKS_README: "\n".join(
            [*claims(detail=False), "", *claims(detail=True), "", *parts(), "", *notes()]
        ).rstrip(),
    }


def _command(result: dict[str, Any]) -> str:
    return f"`{result['command']}`"


def _line(*cells: str) -> str:
    """A line of a table; a bar within a cell would begin another."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rendered(readme: Path) -> str:
    """A README with its tables as the results say.

    Raises:
        ValueError: a marker is missing.
    """
    before, start, rest = readme.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{readme.name} must hold the lines {START!r} and {END!r}")
    return f"{before}{START}\n{tables()[readme]}\n{END}{after}"


def main() -> int:
    """Write, or check and return 1 where a README is behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a README is behind")
    check = parser.parse_args().check
    behind = [readme for readme in tables() if rendered(readme) != readme.read_text(encoding="utf-8")]
    if check:
        for readme in behind:
            print(f"{readme} is not what the results say: run `python -m benchmarks.tables`")
        return 1 if behind else 0
    for readme in behind:
        readme.write_text(rendered(readme), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
