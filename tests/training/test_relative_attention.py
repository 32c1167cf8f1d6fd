"""Backbones whose logits depend on distances learn as they do on their own, the tables of distances among the rest."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from service.bundle.layout import Family, Pooling, plan_layout
from tests.training.tiny import DISENTANGLED, tiny_backbone
from training.attention import UnsupportedBackboneError
from training.backbone import prepare
from training.examples import layout_tensors
from training.model import RewardModel

KINDS: dict[str, dict[str, Any]] = {"mpnet": {}, "deberta-v2": DISENTANGLED}
SEQUENCES = [np.arange(5, 5 + length, dtype=np.int64) for length in (9, 20, 140)]  # several blocks


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def over_blocks(kind: str) -> RewardModel:
    backbone = tiny_backbone(kind, **KINDS[kind])
    prepare(backbone)
    model = RewardModel(backbone, Family.BIDIRECTIONAL, Pooling.MEAN)
    torch.nn.init.constant_(model.head.weight, 1.0)
    return model


def learn(model: RewardModel) -> None:
    model(**layout_tensors(plan_layout(SEQUENCES, model.family, block_queries=16))).square().sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_backbone_alone(kind: str) -> None:
    stock = tiny_backbone(kind, **KINDS[kind])
    for sequence in SEQUENCES:
        states = stock(input_ids=torch.from_numpy(sequence)[None]).last_hidden_state
        (states[0].mean(0).sum() ** 2).backward()
    expected = gradients(stock)
    model = over_blocks(kind)
    learn(model)
    found = gradients(model.backbone)
    assert found.keys() == expected.keys()
    assert any("rel" in name for name in found)  # the table of distances
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_what_can_be_computed_again_gives_the_same_gradients() -> None:
    once, again = over_blocks("deberta-v2"), over_blocks("deberta-v2")
    again.checkpoint_gradients()
    again.train()
    for model in (once, again):
        learn(model)
    expected = gradients(once)
    for name, gradient in gradients(again).items():
        torch.testing.assert_close(gradient, expected[name])


def test_what_cannot_is_refused() -> None:
    with pytest.raises(UnsupportedBackboneError, match=r"model.gradient_checkpointing: MPNetModel"):
        over_blocks("mpnet").checkpoint_gradients()


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_computes_with_its_own_weights(kind: str) -> None:
    """What is computed is bound to a module; it must not stay bound to the one that was copied."""
    model = over_blocks(kind)
    tensors = layout_tensors(plan_layout(SEQUENCES, model.family, block_queries=16))
    before = model(**tensors).detach()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(other(**tensors).detach(), before)
    assert not model(**tensors).any()
