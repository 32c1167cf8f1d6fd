"""A model that is divided among processes learns as a whole one does, is gone on with, and comes out whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from service.bundle.layout import Family
from tests.training.launched import close, curve, fit, prepared
from tests.training.tiny import tiny_checkpoint
from training import processes, sharding
from training.attention import UnsupportedBackboneError
from training.sharding import hand_over, make_room, refuse_unsharded, shard

SHARDED = "tests.training.sharded_on_cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("sharding"))


def test_two_halves_learn_as_a_whole_does(folder: Path) -> None:
    """In float32 the curves are one; the threshold of ties is learnt outside of the module's forward pass."""
    flags = ("--loss.kind", "rao-kupper", "--optimiser.accumulation", "2")
    assert fit(folder, "whole", 1, *flags).returncode == 0
    done = fit(folder, "halves", 2, *flags, "--optimiser.fsdp", module=SHARDED)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("holds 50 % of the weights") == 2
    assert close(curve(folder / "whole"), curve(folder / "halves"))
    whole, halves = (load_file(folder / run / "model" / "model.safetensors") for run in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor, rtol=1e-3, atol=1e-5)


def test_adapters_in_bf16_are_gone_on_with(folder: Path) -> None:
    """Rank 1 would leave a process without a part of it, were it not divided along the other side."""
    flags = ("--model.lora-rank", "1", "--model.gradient-checkpointing", "--optimiser.bf16", "--optimiser.fsdp")
    done = fit(folder, "kept", 2, *flags, module=SHARDED)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "kept" / "training.json").read_text())["bf16"]
    broken = folder / "interrupted"
    shutil.copytree(folder / "kept", broken)
    (broken / "training.json").unlink()
    checkpoints = sorted((broken / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(checkpoints[-1])
    damaged = checkpoints[0] / "optimizer.bin"
    state = damaged.read_bytes()
    damaged.write_bytes(state[: len(state) // 2])
    refused = fit(folder, broken.name, 2, "--resume", module=SHARDED)
    assert refused.returncode != 0
    assert f"{damaged}: cannot be read" in refused.stderr
    damaged.write_bytes(state)
    assert fit(folder, broken.name, 2, "--resume", module=SHARDED).returncode == 0
    assert close(curve(broken), curve(folder / "kept"))


def test_weights_are_handed_over_once() -> None:
    model = tiny_checkpoint(Family.CAUSAL).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = hand_over(model)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert other.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    make_room(model)
    model.load_state_dict(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(buffer, dict(other.named_buffers())[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize(
    ("shape", "count", "dimension"), [((8, 6), 4, 0), ((9, 6), 4, 0), ((2, 8), 4, 1), ((1,), 4, 0)]
)
def test_every_process_gets_a_part(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], count: int, dimension: int
) -> None:
    monkeypatch.setattr(processes, "count", lambda: count)
    assert sharding._placement(torch.nn.Parameter(torch.zeros(shape))).dim == dimension


def test_a_parameter_that_cannot_be_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 4)
    with pytest.raises(ValueError, match=r"a parameter of shape \(2, 6\) cannot be divided among 4 processes"):
        sharding._placement(torch.nn.Parameter(torch.zeros(2, 6)))


def test_layers_that_are_not_told_apart() -> None:
    model = tiny_checkpoint(Family.CAUSAL).model
    model.backbone.layers = torch.nn.ModuleList()
    with pytest.raises(UnsupportedBackboneError, match=r"optimiser\.fsdp: LlamaModel has no layers"):
        shard(model, bf16=False)


def test_one_process_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is one; start them with torchrun"):
        refuse_unsharded()
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a GPU for each process"):
        refuse_unsharded()
