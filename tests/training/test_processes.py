"""Processes that share the elements of a step give the curve of one, write each file once, and go on together."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training import processes
from training.config import DataConfig
from training.data import write_records
from training.prepare import prepare_data

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("allowed", "threads"), [(1, 1), (2, 2), (64, 2)])
def test_a_container_s_quota_bounds_the_threads(monkeypatch: pytest.MonkeyPatch, allowed: int, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(processes, "available_cores", lambda: allowed)
        processes.limit_threads()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, and data whose training part fills the last step of an epoch of 8 elements."""
    folder = tmp_path_factory.mktemp("processes")
    save_backbone(folder / "backbone", "llama", causal_tokenizer())
    data = folder / "toy.jsonl"
    for count in range(60, 100):
        write_records(data, toy_records(count, responses=3))
        if len(prepare_data(DataConfig(train=(str(data),), validation_fraction=0.2), 0).splits.train) % 8 == 0:
            return folder
    raise AssertionError("no size of the data gives full steps")


def fit(folder: Path, run: str, processes: int, *flags: str) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "--"]
    settings = {
        "data.train": folder / "toy.jsonl", "data.validation-fraction": 0.2, "data.store": folder / "store",
        "model.backbone": folder / "backbone", "model.max-tokens": 64, "model.block-queries": 16,
        "optimiser.learning-rate": 1e-3, "optimiser.epochs": 3, "run": folder / run,
    }  # fmt: skip
    given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else ["-m"]), "training", "fit", *given, "--no-progress", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def curve(run: Path) -> list[dict[str, float]]:
    history: list[dict[str, Any]] = json.loads((run / "training.json").read_text())["history"]
    kept = ("loss", "eval_loss", "eval_accuracy", "grad_norm", "learning_rate", "epoch")
    return [{name: row[name] for name in kept if name in row} for row in history]


def close(one: list[dict[str, float]], other: list[dict[str, float]]) -> bool:
    return [row.keys() for row in one] == [row.keys() for row in other] and all(
        math.isclose(value, theirs[name], rel_tol=1e-4, abs_tol=1e-6)
        for mine, theirs in zip(one, other, strict=True)
        for name, value in mine.items()
    )


@pytest.mark.parametrize("kind", ["bradley-terry", "rao-kupper"])
def test_two_processes_learn_as_one_does(folder: Path, kind: str) -> None:
    alone, together = (f"{kind}-{count}" for count in (1, 2))
    for run, count in ((alone, 1), (together, 2)):
        done = fit(folder, run, count, "--loss.kind", kind)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("trained ") == 1  # one process speaks for all
    assert len(curve(folder / alone)) > 6
    assert close(curve(folder / alone), curve(folder / together))


def test_an_interrupted_run_is_gone_on_with_by_as_many(folder: Path) -> None:
    whole, broken = folder / "whole", folder / "broken"
    for run in (whole, broken):
        assert fit(folder, run.name, 2).returncode == 0
    (broken / "training.json").unlink()
    checkpoints = sorted((broken / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(checkpoints[-1])
    alone = fit(folder, "broken", 1, "--resume")
    assert alone.returncode == 1
    assert "2 processes trained it, and 1 cannot go on" in alone.stderr
    assert fit(folder, "broken", 2, "--resume").returncode == 0
    assert curve(broken) == curve(whole)


def test_elements_that_cannot_be_shared_alike(folder: Path) -> None:
    assert fit(folder, "kept", 1).returncode == 0
    done = fit(folder, "kept", 2, "--optimiser.batch-elements", "3")
    assert done.returncode != 0
    assert (folder / "kept" / "training.json").is_file()  # nothing was taken away for it
    assert "batch_elements is 3, the elements of a step over all processes, and 2 processes cannot" in done.stderr
