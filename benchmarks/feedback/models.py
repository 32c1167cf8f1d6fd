"""The reward model of the task and its judge: trained once, each on its half of the preferences."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.feedback.diary import write_task
from benchmarks.server import serving
from training.data import public_sets

WORK = Path("build/feedback")
TASK = WORK / "task"
_SEEDS = {"reward": 0, "judge": 1}


def train_models() -> dict[str, Path]:
    """The bundles by name, trained where they are not there.

    Raises:
        OSError: the public data are not there.
        subprocess.CalledProcessError: the training failed.
    """
    write_task(public_sets.data_folder(), TASK)
    bundles = {name: WORK / name for name in _SEEDS}
    for name, bundle in bundles.items():
        if not (bundle / "bundle.json").is_file():
            subprocess.run([sys.executable, "-m", "training", "run", *_flags(name)], check=True)
    return bundles


def _flags(name: str) -> list[str]:
    settings = {
        "run": WORK / f"{name}-run", "bundle": WORK / name, "name": name, "data.train": TASK / f"{name}.jsonl",
        "data.test": TASK / "test.jsonl", "optimiser.seed": _SEEDS[name], "model.max-tokens": 128,
    }  # fmt: skip
    return [*(f"--{key}={value}" for key, value in settings.items()), "--overwrite"]


@contextmanager
def served(bundles: dict[str, Path]) -> Iterator[dict[str, str]]:
    """The addresses of a server for each bundle, by name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(bundle, threads="1")) for name, bundle in bundles.items()}
