"""What is frozen stays as it was, and all above it learns."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.bundle.layout import Family, Pooling, plan_layout
from tests.training.tiny import DISENTANGLED, tiny_backbone, tiny_checkpoint, toy_records
from training.attention import UnsupportedBackboneError
from training.backbone import prepare
from training.config import ModelConfig, OptimiserConfig, TrainingConfig
from training.encoding import encode_records
from training.examples import layout_tensors
from training.fit import fit
from training.freezing import freeze
from training.model import RewardModel


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_lower_part_stays_and_the_rest_learns(tmp_path: Path, family: Family, layers: int) -> None:
    checkpoint = tiny_checkpoint(family)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    freeze(checkpoint.model, layers)
    train, validation = (encode_records(toy_records(count, count, 2), checkpoint.formatter, False) for count in (16, 4))
    config = TrainingConfig(run=tmp_path, progress=False, optimiser=OptimiserConfig(epochs=1, batch_elements=4))
    fit(checkpoint.model, train, validation, config)
    still = {name for name, tensor in checkpoint.model.state_dict().items() if torch.equal(tensor, before[name])}
    lower = [
        name
        for name in before
        if "embed" in name or any(f"layer.{k}." in name or f"layers.{k}." in name for k in range(layers))
    ]
    upper = [name for name in before if name.endswith("weight") and name not in lower]
    assert lower
    assert still.issuperset(lower)
    assert not still.intersection(upper)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(ValueError, match="frozen_layers is 3, and the backbone has 2 layers"):
        freeze(tiny_checkpoint(Family.CAUSAL).model, 3)


def test_a_backbone_without_layers_to_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_checkpoint(Family.CAUSAL).model
    monkeypatch.setattr("training.layers.KINDS", (torch.nn.Conv2d,))
    with pytest.raises(UnsupportedBackboneError, match="no layers that could be frozen"):
        freeze(model, 1)


def test_not_with_adapters() -> None:
    with pytest.raises(ValidationError, match="frozen_layers and lora_rank"):
        ModelConfig(frozen_layers=1, lora_rank=4)


@pytest.mark.parametrize(
    "kind",
    ["gpt2", "opt", "electra", "bert", "roberta", "modernbert", "mpnet", "deberta-v2", "llama", "qwen3", "gpt_neox"],
)
def test_below_the_layers_that_learn_nothing_does(kind: str) -> None:
    """Told by the gradients: what may learn has one, and it is the upper layers and a final norm."""
    settings = {
        "opt": {"pad_token_id": 1, "word_embed_proj_dim": 32},
        "roberta": {"pad_token_id": 1},
        "deberta-v2": DISENTANGLED,
    }
    backbone = tiny_backbone(kind, **settings.get(kind, {}))
    prepare(backbone)
    encoder = kind in ("electra", "bert", "roberta", "modernbert", "mpnet", "deberta-v2")
    model = RewardModel(
        backbone, Family.BIDIRECTIONAL if encoder else Family.CAUSAL, Pooling.MEAN if encoder else Pooling.LAST
    )
    freeze(model, 1)
    sequences = [np.arange(5, 5 + length, dtype=np.int64) for length in (9, 20)]
    model(**layout_tensors(plan_layout(sequences, model.family, block_queries=16))).sum().backward()
    learning = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    without = {name for name in learning if model.backbone.get_parameter(name).grad is None}
    assert not without
    inside = {name for name in learning if re.search(r"\.[1-9]\d*\.", name)}
    assert inside
    assert len(learning - inside) <= 2  # a final norm
    assert not [name for name in learning if "embed" in name or "wpe" in name or "wte" in name]
