"""Processes that share the elements of a step give the curve of one, write each file once, and go on together."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.training.launched import close, curve, fit, prepared
from training import processes


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
    return prepared(tmp_path_factory.mktemp("processes"))


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
    done = fit(folder, "kept", 2, "--optimiser.batch-elements", "3", "--overwrite")
    assert done.returncode != 0
    assert (folder / "kept" / "training.json").is_file()  # nothing was taken away for it
    assert "batch_elements is 3, the elements of a step over all processes, and 2 processes cannot" in done.stderr
