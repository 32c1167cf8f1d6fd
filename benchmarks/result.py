"""What every result says beside its figures: command, machine, versions, commit, seed, and targets held or not."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy", "fastapi", "uvicorn", "aiohttp")


@dataclass(frozen=True)
class Target:
    """One claim: what was wanted, what was measured, and whether it holds."""

    name: str
    target: str
    figure: str
    held: bool


@dataclass(frozen=True)
class Result:
    """Figures of one benchmark run."""

    benchmark: str
    quick: bool
    seed: int
    targets: list[Target]
    figures: dict[str, Any]

    def write(self) -> Path:
        """Write the result with its circumstances; a quick form goes beside the full one. Returns the file."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.benchmark}{'.quick' if self.quick else ''}.json"
        content = {
            **asdict(self),
            "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": _machine(),
            "versions": {"python": platform.python_version(), **_versions()},
        }
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def report(self) -> None:
        """Print the targets as lines of target, figure, held or not."""
        for target in self.targets:
            mark = "held    " if target.held else "NOT HELD"
            print(f"{mark}  {target.name}: {target.figure}  (target: {target.target})", flush=True)


def _module() -> str:
    """Name of the module that was started, such as `benchmarks.serving.race`."""
    path = Path(sys.argv[0]).resolve()
    inside = RESULTS.parent in path.parents
    return ".".join(path.relative_to(RESULTS.parent.parent).with_suffix("").parts) if inside else path.stem


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _commit() -> str:
    git = ["git", "-C", str(RESULTS.parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return f"{commit or 'unknown'}{' with uncommitted changes' if changed else ''}"


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "amx": "amx_bf16" in flags,
        "system": platform.platform(),
    }
