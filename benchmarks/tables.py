"""Write the README's tables from the committed results, between their markers.

python -m benchmarks.tables [--check]
"""

import argparse
import json
import sys

from benchmarks.result import RESULTS

README = RESULTS.parent.parent / "README.md"
START, END = "<!-- results: made by `python -m benchmarks.tables` -->", "<!-- end of results -->"


def table() -> str:
    """Markdown of every full result: a table of the targets, one of figures that are no targets, and the notes."""
    claims = ["| claim | target | measured | held | command |", "|---|---|---|---|---|"]
    parts = ["", "Parts of these figures, without a target:", "", "| part | measured | command |", "|---|---|---|"]
    head = len(parts)
    notes: list[str] = []
    machines = set()
    for path in sorted(RESULTS.glob("*.json")):
        if path.name.endswith(".quick.json"):
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        machine, command = result["machine"], f"`{result['command']}`"
        machines.add(f"{machine['cores']} cores of {machine['processor']}{' with AMX' if machine['amx'] else ''}")
        for target in result["targets"]:
            held = "yes" if target["held"] else "**no**"
            claims.append(_line(target["name"], target["target"], target["figure"], held, command))
        parts += [_line(row["name"], row["figure"], command) for row in result.get("rows", ())]
        notes += ["", *result["notes"]] if result.get("notes") else []
    measured = [
        "",
        f"Measured on {'; '.join(sorted(machines))}. "
        "Seeds, versions, commits and spreads are in `benchmarks/results/`.",
    ]
    return "\n".join([*claims, *(parts if len(parts) > head else ()), *notes, *measured])


def _line(*cells: str) -> str:
    """A line of a table; a bar within a cell would begin another."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rendered(readme: str) -> str:
    """The README with its table as the results say.

    Raises:
        ValueError: a marker is missing.
    """
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{README.name} must hold the lines {START!r} and {END!r}")
    return f"{before}{START}\n{table()}\n{END}{after}"


def main() -> int:
    """Write, or check and return 1 where the README is behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the README is behind")
    check = parser.parse_args().check
    old = README.read_text(encoding="utf-8")
    new = rendered(old)
    if check:
        return 0 if old == new else 1
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
