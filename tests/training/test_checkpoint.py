"""What is saved comes back to the bit; what is damaged is named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from service.bundle.layout import Family, Pooling, plan_layout
from service.bundle.text_format import Formatter
from tests.training.tiny import tiny_backbone, tiny_checkpoint
from training.backbone import prepare
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.checkpoint_error import CheckpointError
from training.examples import layout_tensors
from training.heads import Heads
from training.model import RewardModel

ITEMS = [np.arange(5, 5 + length, dtype=np.int64) for length in (1, 9, 40, 40)]


def scores(model: RewardModel) -> torch.Tensor:
    with torch.no_grad():
        rewards: torch.Tensor = model(**layout_tensors(plan_layout(ITEMS, model.family, block_queries=16)))
    return rewards


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "bert", "albert", "electra", "modernbert"])
def test_scores_survive_to_the_bit(tmp_path: Path, model_type: str) -> None:
    """ALBERT uses one layer's weights twice; Gemma and others scale by tables that are not saved."""
    family = Family.CAUSAL if model_type in ("llama", "gpt2", "gemma3_text") else Family.BIDIRECTIONAL
    settings = {"head_dim": 8} if model_type == "gemma3_text" else {}
    backbone = tiny_backbone(model_type, **settings)
    prepare(backbone)
    base = tiny_checkpoint(family)
    model = RewardModel(backbone, family, Pooling.LAST if family is Family.CAUSAL else Pooling.MEAN).eval()
    save_checkpoint(Checkpoint(model, base.formatter, base.description), tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(scores(loaded.model), scores(model))
    assert not loaded.model.training
    assert loaded.description == base.description


def test_a_checkpoint_with_a_scalar_threshold_is_read(tmp_path: Path) -> None:
    """As they were before FSDP, which takes no scalars."""
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    save_checkpoint(checkpoint, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["tie_threshold"] = torch.tensor(-0.5)
    save_file(weights, tmp_path / "model.safetensors")
    assert load_checkpoint(tmp_path).model.tie_threshold.tolist() == [-0.5]


def test_the_format_survives_to_the_byte(tmp_path: Path) -> None:
    """Line ends belong to a template, and the service refuses a format with another hash."""
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    old = checkpoint.formatter
    formatter = Formatter(old.text_format, old.template + "\r\n{# é #}", old.tokenizer, old.max_tokens)
    save_checkpoint(replace(checkpoint, formatter=formatter), tmp_path)
    assert load_checkpoint(tmp_path).formatter.sha256 == formatter.sha256 != old.sha256


def test_heads_have_names(tmp_path: Path) -> None:
    base = tiny_checkpoint(Family.CAUSAL)
    heads = Heads(kind="aspects", weights={"helpful": 1.0, "harmless": 0.5})
    model = RewardModel(base.model.backbone, Family.CAUSAL, Pooling.LAST, heads).eval()
    description = base.description.model_copy(update={"heads": heads})
    save_checkpoint(Checkpoint(model, base.formatter, description), tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.heads == heads
    assert torch.equal(scores(loaded.model), scores(model))
    assert scores(model).shape == (len(ITEMS), 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("reward_model.json", None, "no trained model here .* run `assay-train fit` first"),
        ("reward_model.json", b"{", "reward_model.json: .*JSON"),
        ("reward_model.json", b"{}", "reward_model.json: name: Field required"),
        ("model.safetensors", None, "cannot be read"),
        ("model.safetensors", b"\x00" * 64, "cannot be read"),
        ("config.json", None, "cannot be read"),
        ("config.json", b"{}", "cannot be read"),
        ("config.json", b"\xff", "cannot be read"),
        ("tokenizer.json", b"{}", "not a readable tokenizer.json"),
        ("chat_template.jinja", b"{% if %}", "the chat template does not parse"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    save_checkpoint(tiny_checkpoint(Family.CAUSAL), tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": "x"},
        {"num_attention_heads": 0},
        {"num_attention_heads": -4},
        {"hidden_act": "no such function"},
        {"hidden_size": None},
        {"model_type": "nothing"},
        {"vocab_size": -1},
    ],
)
@pytest.mark.parametrize("family", list(Family))
def test_nonsense_in_the_architecture_is_one_line_with_the_file(
    tmp_path: Path, family: Family, values: dict[str, object]
) -> None:
    save_checkpoint(tiny_checkpoint(family), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path)
    assert str(error.value).startswith(f"{path}: the checkpoint cannot be read: ")
    assert "\n" not in str(error.value)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    save_checkpoint(tiny_checkpoint(Family.CAUSAL), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 64}))
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_checkpoint(tmp_path)


def test_a_broken_write_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tiny_checkpoint(Family.CAUSAL), tmp_path)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("training.checkpoint.save_model", full)
    with pytest.raises(CheckpointError, match="cannot be written with .* No space left"):
        save_checkpoint(tiny_checkpoint(Family.CAUSAL, seed=1), tmp_path)
    with pytest.raises(CheckpointError, match="no trained model here"):
        load_checkpoint(tmp_path)
