"""A damaged checkpoint is refused before the loop goes on from it: one line, the file, and the way out."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.training.test_fit import StopAt, configuration, train
from tests.training.tiny import save_backbone, toy_records
from training.checkpoint_error import CheckpointError
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import write_records
from training.pipeline import run_fit
from training.run_folder import CHECKPOINTS, STATE, resumable, whole_checkpoints

PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eighteen updates that was cut after its second checkpoint."""
    run = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        train(configuration(run), [StopAt(13)])
    assert [path.name for path in whole_checkpoints(run)] == ["checkpoint-6", "checkpoint-12"]
    return run


@pytest.fixture
def run(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def refused(run: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        train(configuration(run).model_copy(update={"resume": True}))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "garbage"])
def test_a_damaged_part_is_named(run: Path, name: str, damage: str) -> None:
    path = run / CHECKPOINTS / "checkpoint-12" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "short": content[: len(content) // 2], "garbage": b"\x80garbage" * 40}[damage])
    said = refused(run)
    assert said.startswith(f"{path}: {'is missing' if damage == 'missing' else 'cannot be read'}")


def test_the_way_out_leads_on(run: Path) -> None:
    """What the message says to do, done: the earlier checkpoint is gone on from, to the same weights."""
    _, whole, _ = train(configuration(run.with_name("whole")))
    newest = run / CHECKPOINTS / "checkpoint-12"
    (newest / "optimizer.pt").unlink()
    assert "remove this checkpoint to resume from an earlier one" in refused(run)
    shutil.rmtree(newest)
    _, again, _ = train(configuration(run).model_copy(update={"resume": True}))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("content", [{}, [], {"global_step": 1}, b"{", b"\xff", b'{"global_step": "x"}'])
def test_a_damaged_state_is_named(run: Path, content: object) -> None:
    path = run / CHECKPOINTS / "checkpoint-12" / STATE
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert refused(run).startswith(f"{path}: cannot be read (")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("content", [{}, [1], {"state": {}, "python": 3, "last_epoch": "x"}])
def test_a_part_that_holds_something_else_is_named(run: Path, name: str, content: object) -> None:
    path = run / CHECKPOINTS / "checkpoint-12" / name
    torch.save(content, path)
    assert refused(run).startswith(f"{path}: cannot be read (")


def test_moments_of_another_model_are_refused(run: Path) -> None:
    path = run / CHECKPOINTS / "checkpoint-12" / "optimizer.pt"
    content = torch.load(path, weights_only=True)
    content["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(content, path)
    assert "exp_avg of parameter 0 has another shape" in refused(run)


def test_lost_best_weights_are_noticed_before_the_loop(run: Path) -> None:
    newest = run / CHECKPOINTS / "checkpoint-12"
    state = json.loads((newest / STATE).read_text()) | {"best_global_step": 6}
    (newest / STATE).write_text(json.dumps(state))
    best = run / CHECKPOINTS / "checkpoint-6" / "model.safetensors"
    best.write_bytes(best.read_bytes()[:200])
    said = refused(run)
    assert said.startswith(f"{best}: cannot be read (")
    assert "the weights of least validation loss; begin anew" in said


def test_other_folders_are_no_checkpoints(run: Path) -> None:
    shutil.copytree(run / CHECKPOINTS / "checkpoint-12", run / CHECKPOINTS / "checkpoint-12-copy")
    (run / CHECKPOINTS / "checkpoint-99").mkdir()
    assert whole_checkpoints(run)[-1].name == "checkpoint-12"


@pytest.fixture
def fitted(tmp_path: Path) -> TrainingConfig:
    """A finished run of the whole pipeline."""
    write_records(tmp_path / "toy.jsonl", toy_records(40))
    config = TrainingConfig(
        run=tmp_path / "run",
        progress=False,
        data=DataConfig(train=(str(tmp_path / "toy.jsonl"),), validation_fraction=0.2, test_fraction=0.2),
        model=ModelConfig(backbone=str(save_backbone(tmp_path / "backbone", "llama")), max_tokens=64),
        optimiser=OptimiserConfig(epochs=1, patience=0),
    )
    run_fit(config)
    return config


def test_a_finished_run_keeps_its_model_when_resuming_fails(fitted: TrainingConfig) -> None:
    (newest,) = whole_checkpoints(fitted.run)
    (newest / STATE).write_text("{}")
    with pytest.raises(CheckpointError, match="global_step is None"):
        run_fit(TrainingConfig(run=fitted.run, resume=True, progress=False))
    assert (fitted.run / "model" / "reward_model.json").is_file()
    assert (fitted.run / "training.json").is_file()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "Input should be a valid dictionary or instance of Begun"),
        ("{}", "configuration: Field required"),
        ('{"configuration": {}}', "data_sha256: Field required"),
        ('{"configuration": {"x": 1, "y": 2}, "data_sha256": ""}', "configuration.x: Extra inputs are not permitted"),
        ("{", "cannot be read: Expecting property name"),
    ],
)
def test_a_damaged_note_of_the_beginning_is_named(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "configuration.json"
    path.write_text(content)
    with pytest.raises(CheckpointError) as error:
        run_fit(TrainingConfig(run=tmp_path, resume=True))
    assert str(error.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(error.value)


def test_only_an_unfinished_run_with_a_checkpoint_is_resumable(fitted: TrainingConfig) -> None:
    assert not resumable(fitted.run)
    (fitted.run / "training.json").unlink()
    assert resumable(fitted.run)
    shutil.rmtree(fitted.run / CHECKPOINTS)
    assert not resumable(fitted.run)
