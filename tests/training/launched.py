"""Trainings in processes of their own, and their curves."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training.config import DataConfig
from training.data import write_records
from training.prepare import prepare_data

ROOT = Path(__file__).parents[2]


def prepared(folder: Path) -> Path:
    """`folder` with a backbone, and data whose training part fills the last step of an epoch of 8 elements."""
    save_backbone(folder / "backbone", "llama", causal_tokenizer())
    data = folder / "toy.jsonl"
    for count in range(60, 100):
        write_records(data, toy_records(count, responses=3))
        if len(prepare_data(DataConfig(train=(str(data),), validation_fraction=0.2)).splits.train) % 8 == 0:
            return folder
    raise AssertionError("no size of the data gives full steps")


def fit(
    folder: Path, run: str, processes: int, *flags: str, module: str = "training"
) -> subprocess.CompletedProcess[str]:
    """Train by the backbone and the data of `folder`, in `processes` processes, into `folder`/`run`."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "--"]
    settings = {
        "data.train": folder / "toy.jsonl", "data.validation-fraction": 0.2, "data.store": folder / "store",
        "model.backbone": folder / "backbone", "model.max-tokens": 64, "model.block-queries": 16,
        "optimiser.learning-rate": 1e-3, "optimiser.epochs": 3, "run": folder / run,
    }  # fmt: skip
    given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, *(launch if processes > 1 else ["-m"]), module, "fit", *given, "--no-progress", *flags]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            out, err = launcher.communicate(timeout=300)
        except BaseException:  # whoever is stopped here would leave its workers behind
            launcher.terminate()
            raise
    return subprocess.CompletedProcess(command, launcher.returncode, out, err)


def curve(run: Path) -> list[dict[str, float]]:
    """What was logged, without times."""
    history: list[dict[str, Any]] = json.loads((run / "training.json").read_text())["history"]
    kept = ("loss", "accuracy", "margin", "eval_loss", "eval_accuracy", "grad_norm", "learning_rate", "epoch")
    return [{name: row[name] for name in kept if name in row} for row in history]


def close(one: list[dict[str, float]], other: list[dict[str, float]]) -> bool:
    """Whether two curves are one but for rounding."""
    return [row.keys() for row in one] == [row.keys() for row in other] and all(
        math.isclose(value, theirs[name], rel_tol=1e-4, abs_tol=1e-6)
        for mine, theirs in zip(one, other, strict=True)
        for name, value in mine.items()
    )
