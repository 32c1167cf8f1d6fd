"""What was trained here is trained on from its own weights, and never from random ones in their place."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training.attention import UnsupportedBackboneError
from training.checkpoint import load_checkpoint
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import DataError, write_records
from training.earlier_run import load_start
from training.learnt import learnt_by
from training.pipeline import run_fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a backbone, data, and two runs on it: of one head and of three."""
    folder = tmp_path_factory.mktemp("earlier")
    save_backbone(folder / "backbone", "llama", causal_tokenizer())
    write_records(folder / "toy.jsonl", toy_records(50, responses=3))
    run_fit(config(folder, "first", "backbone"))
    run_fit(config(folder, "three", "backbone", ensemble=3))
    return folder


def config(folder: Path, run: str, backbone: str, epochs: int = 1, **model: object) -> TrainingConfig:
    learning = {"learning_rate": 1e-3, "head_learning_rate": 1e-2} if epochs else {}
    return TrainingConfig(
        run=folder / run,
        progress=False,
        data=DataConfig(train=(str(folder / "toy.jsonl"),), validation_fraction=0.2, test_fraction=0.2),
        model=ModelConfig.model_validate(
            {"backbone": str(folder / backbone), "max_tokens": 64, "block_queries": 16, **model}
        ),
        optimiser=OptimiserConfig.model_validate({"epochs": epochs, **learning}),
    )


@pytest.mark.parametrize("name", ["first", "first/model"])
def test_a_run_is_gone_on_from_with_its_head(folder: Path, name: str, tmp_path: Path) -> None:
    earlier = load_checkpoint(folder / "first" / "model")
    again = config(folder, str(tmp_path / "again"), name, epochs=0, head="pretrained")
    run_fit(again)
    same = load_checkpoint(again.run / "model")
    assert all(torch.equal(same.model.state_dict()[key], value) for key, value in earlier.model.state_dict().items())
    assert same.formatter.sha256 == earlier.formatter.sha256
    further = config(folder, str(tmp_path / "further"), name, head="pretrained")
    result = run_fit(further)
    before = result.history[0]["eval_loss"]  # where the earlier run ended
    assert before < 0.67
    assert result.best_validation_loss is not None
    assert result.best_validation_loss <= before


def test_what_it_has_learnt_from_is_not_held_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def other_split(**data: object) -> TrainingConfig:
        asked = config(folder, str(tmp_path / "other"), "first", head="pretrained")
        return asked.model_copy(update={"data": asked.data.model_copy(update={"seed": 1, **data})})

    with pytest.raises(DataError, match=r"first has learnt from \d+ of the \d+ prompts that are held out here"):
        run_fit(other_split())
    assert not (tmp_path / "other").exists()
    run_fit(other_split(on_leakage="report"))
    assert "figures on them are too good" in caplog.text
    new = str(folder / "new.jsonl")
    write_records(folder / "new.jsonl", toy_records(40, seed=5, responses=3))
    run_fit(config(folder, str(tmp_path / "new"), "first").model_copy(
        update={"data": DataConfig(train=(new,), validation_fraction=0.2, test_fraction=0.2)}
    ))  # fmt: skip
    earlier = load_checkpoint(tmp_path / "new" / "model").description.provenance.began_with
    assert earlier is not None
    assert earlier.configuration["run"] == str(folder / "first")
    again = config(folder, str(tmp_path / "third"), str(tmp_path / "new"))
    with pytest.raises(DataError, match="has learnt from"):  # two runs before
        run_fit(again.model_copy(update={"data": again.data.model_copy(update={"seed": 1})}))


def test_a_run_does_not_replace_what_it_begins_with(folder: Path) -> None:
    with pytest.raises(ValueError, match="model.backbone is in it, and would be replaced"):
        run_fit(config(folder, "first", "first", head="pretrained").model_copy(update={"overwrite": True}))
    assert (folder / "first" / "model" / "model.safetensors").is_file()


def test_its_backbone_takes_new_heads(folder: Path) -> None:
    start = load_start(str(folder / "three"))
    assert start.head is None
    query = "layers.0.self_attn.q_proj.weight"
    earlier = load_checkpoint(folder / "three" / "model").model.backbone.state_dict()
    assert torch.equal(start.model.state_dict()[query], earlier[query])
    with pytest.raises(UnsupportedBackboneError, match="has 3 heads; with model.head new its backbone is trained on"):
        load_start(str(folder / "three"), with_head=True)
    with pytest.raises(ValueError, match="model.pooling: a causal model cannot be pooled by mean"):
        run_fit(config(folder, "x", "first", pooling="mean"))


def test_weights_that_are_not_there_are_not_drawn(folder: Path, tmp_path: Path) -> None:
    """transformers would only print a table."""
    backbone = save_backbone(tmp_path, "llama", causal_tokenizer())
    weights = load_file(backbone / "model.safetensors")
    save_file({f"backbone.{name}": tensor for name, tensor in weights.items()}, backbone / "model.safetensors")
    with pytest.raises(UnsupportedBackboneError, match=r"lack \d+ weights of its architecture, such as embed_tokens"):
        load_start(str(backbone))


def test_what_was_only_taken_over_has_learnt_nothing_of_its_data(folder: Path, tmp_path: Path) -> None:
    """They were there to calibrate and to test it; what it began with has learnt, from other data."""
    write_records(tmp_path / "others.jsonl", toy_records(30, seed=5))
    taken = config(folder, str(tmp_path / "taken"), "first", epochs=0, head="pretrained")
    taken = taken.model_copy(
        update={"data": taken.data.model_copy(update={"train": (str(tmp_path / "others.jsonl"),)})}
    )
    run_fit(taken)
    first, now = (
        learnt_by(load_checkpoint(run / "model").description.provenance, run / "model")
        for run in (folder / "first", taken.run)
    )
    assert first.trained
    assert now.trained == first.trained
    assert len(now.chosen_by) > len(first.chosen_by)
