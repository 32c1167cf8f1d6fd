"""The reward models of the tasks and their judges, each trained once."""

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

_DIARY = {"data.test": TASK / "test.jsonl", "model.max-tokens": 128}
MODELS: dict[str, dict[str, object]] = {
    # Of the diary: each on its half of the preferences.
    "reward": {**_DIARY, "data.train": TASK / "reward.jsonl", "optimiser.seed": 0},
    "judge": {**_DIARY, "data.train": TASK / "judge.jsonl", "optimiser.seed": 1},
    # As `make serve` trains it; the judge has other held-out prompts, another head and another order.
    "default": {},
    "default_judge": {"data.seed": 1, "optimiser.seed": 1},
}
"""What is set for the training of each otherwise than by default."""


def train_models(names: tuple[str, ...]) -> dict[str, Path]:
    """The bundles by name, trained where they are not there.

    Raises:
        OSError: the public data are not there.
        subprocess.CalledProcessError: the training failed.
    """
    write_task(public_sets.data_folder(), TASK)
    bundles = {name: WORK / name for name in names}
    for name, bundle in bundles.items():
        if not (bundle / "bundle.json").is_file():
            subprocess.run([sys.executable, "-m", "training", "run", *_flags(name)], check=True)
    return bundles


def _flags(name: str) -> list[str]:
    settings = {"run": WORK / f"{name}-run", "bundle": WORK / name, "name": name, **MODELS[name]}
    return [*(f"--{key}={value}" for key, value in settings.items()), "--overwrite"]


@contextmanager
def served(bundles: dict[str, Path]) -> Iterator[dict[str, str]]:
    """The addresses of a server for each bundle, by name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(bundle, threads="1")) for name, bundle in bundles.items()}
