"""What every result says beside its figures: command, machine, versions, commit, seed, and targets held or not."""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "accelerate", "peft", "trl"),
    *("onnx", "onnxruntime", "numpy", "fastapi", "uvicorn", "aiohttp"),
)


@dataclass(frozen=True)
class Target:
    """One claim: what was wanted, what was measured, and whether it holds.

    Attributes:
        detail: it only supports another claim, such as that two scores agree whose speeds are compared.
    """

    name: str
    target: str
    figure: str
    held: bool
    detail: bool = False


@dataclass(frozen=True)
class Row:
    """A figure that is shown beside the claims without being one, such as that of a part."""

    name: str
    figure: str


@dataclass(frozen=True)
class Result:
    """Figures of one benchmark run; `notes` say what a reader of the targets must know."""

    benchmark: str
    quick: bool
    seed: int
    targets: list[Target]
    figures: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self) -> Path:
        """Write the result with its circumstances; a quick form goes beside the full one. Returns the file.

        Raises:
            UncommittedError: a full result of code that no commit holds; nobody could measure it again.
            CommitMovedError: the commit changed while it was measured, so that none can be named.
        """
        if not self.quick and (changed := uncommitted()):
            raise UncommittedError(changed)
        if not self.quick and commit() != _STARTED_AT:
            raise CommitMovedError
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.benchmark}{'.quick' if self.quick else ''}.json"
        content = {
            **asdict(self),
            "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": _STARTED_AT,
            "machine": _machine(),
            "versions": {"python": platform.python_version(), **_versions()},
        }
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def publish(self) -> None:
        """Report, write, and say where.

        Raises:
            UncommittedError, CommitMovedError: see `write`.
        """
        self.report()
        print(self.write().relative_to(RESULTS.parent.parent))

    def report(self) -> None:
        """Print the targets as lines of target, figure, held or not."""
        for target in self.targets:
            mark = "held    " if target.held else "NOT HELD"
            print(f"{mark}  {target.name}: {target.figure}  (target: {target.target})", flush=True)
        for row in self.rows:
            print(f"          {row.name}: {row.figure}", flush=True)
        for note in self.notes:
            print(f"          {note}", flush=True)


class UncommittedError(RuntimeError):
    """Changes that no commit holds, where a full result was to be measured."""

    def __init__(self, changed: list[str]) -> None:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        super().__init__(
            f"a full result names the commit it was measured at, and {', '.join(changed[:3])}{more} "
            "is not committed: commit it, or measure with --quick"
        )


class CommitMovedError(RuntimeError):
    """The code in the working tree is another one than when the measurement began."""

    def __init__(self) -> None:
        super().__init__(f"the commit moved from {_STARTED_AT} to {commit()} during the measurement: measure again")


def refuse_uncommitted(quick: bool) -> None:
    """End a command at once, in one line, whose result could not be written in the end."""
    if quick:
        return
    if changed := uncommitted():
        sys.exit(str(UncommittedError(changed)))
    if _STARTED_AT.startswith(_UNKNOWN):
        sys.exit("a full result names the commit it was measured at, and this is no git repository: use --quick")


def publish_parts(
    description: str | None, parts: Iterable[str], run: Callable[[str, bool], Result], quick: str
) -> None:
    """The command line of a benchmark in parts, each with a result of its own: --quick (what it does) and --only PART.

    Args:
        description: the module's text, for --help.
        parts: their names, in order.
        run: gives the result of a part; the second argument is whether it is the quick form.
        quick: what the quick form leaves out.

    Raises:
        UncommittedError, CommitMovedError: see `Result.write`.
    """
    names = list(parts)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", choices=names, help="one part alone")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    for part in [arguments.only] if arguments.only else names:
        run(part, arguments.quick).publish()


def uncommitted() -> list[str]:
    """Files of the working tree that the commit does not hold as they are; results themselves do not count."""
    git = ["git", "-C", str(RESULTS.parent.parent), "status", "--porcelain", "--", ".", ":!benchmarks/results"]
    lines = subprocess.run(git, capture_output=True, text=True).stdout.splitlines()
    return [line[3:] for line in lines]


def _module() -> str:
    """Name of the module that was started, such as `benchmarks.serving.race`."""
    path = Path(sys.argv[0]).resolve()
    inside = RESULTS.parent in path.parents
    parts = path.relative_to(RESULTS.parent.parent).with_suffix("").parts if inside else (path.stem,)
    return ".".join(parts).removesuffix(".__main__")


def _versions() -> dict[str, str]:
    """Of what is installed: the GPU script brings no web server."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


_UNKNOWN = "unknown"


def commit() -> str:
    """Of the working tree, and whether it holds changes beside."""
    git = ["git", "-C", str(RESULTS.parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return f"{commit or _UNKNOWN}{' with uncommitted changes' if uncommitted() else ''}"


_STARTED_AT = commit()
"""When this module was imported: what runs is what was there then."""


def _machine() -> dict[str, Any]:
    first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    flags = about.get("flags", "").split()
    return {
        "processor": about.get("model name", platform.machine()),
        # A virtual machine may tell no more than the maker's name.
        "family": about.get("cpu family"),
        "model": about.get("model"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "amx": "amx_bf16" in flags,
        "system": platform.platform(),
    }
