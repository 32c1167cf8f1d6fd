"""A disk that fills while a checkpoint is written: one clear line, and the last good checkpoint goes on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.test_command_line import call
from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training.checkpoint import load_checkpoint
from training.data import write_records
from training.run_folder import whole_checkpoints

CHECKPOINT_KIB = 400


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file system of its own, too small for two checkpoints of the tiny model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={CHECKPOINT_KIB + 250}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_last_good_checkpoint_survives_a_full_disk(tmp_path: Path, disk: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", "llama", causal_tokenizer())
    write_records(tmp_path / "toy.jsonl", toy_records(50, responses=3))
    settings = (
        "--data.train", tmp_path / "toy.jsonl", "--data.validation-fraction", "0.2", "--model.max-tokens", "64",
        "--model.backbone", backbone, "--optimiser.learning-rate", "1e-3", "--optimiser.epochs", "4", "--no-progress",
    )  # fmt: skip
    run = disk / "run"
    failed = call("fit", *settings, "--run", run)
    assert failed.returncode == 1
    said = failed.stderr.splitlines()[-1]
    assert said.startswith(f"assay-train: {run}/checkpoints/checkpoint-")
    assert "cannot be written with" in said
    assert "--resume" in said
    assert "Traceback" not in failed.stderr
    assert len(whole_checkpoints(run)) == 1
    assert not (run / "model" / "reward_model.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert call("fit", *settings, "--run", run, "--resume").returncode == 0
    assert call("fit", *settings, "--run", tmp_path / "whole").returncode == 0
    resumed, whole = (load_checkpoint(folder / "model").model.state_dict() for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
