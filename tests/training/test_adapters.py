"""Adapters learn with the head, leave the backbone as it was until they are merged, and then nothing but weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle.layout import Family, Pooling, plan_layout
from tests.training.tiny import tiny_backbone, tiny_checkpoint, toy_records
from training.adapters import add_adapters, merge_adapters
from training.backbone import prepare
from training.config import ModelConfig, OptimiserConfig, TrainingConfig
from training.encoding import Example, encode_records
from training.evaluation import metrics
from training.evaluation.evaluate import judged_pairs
from training.examples import layout_tensors
from training.fit import fit
from training.model import RewardModel
from training.scoring import score_examples

ITEMS = [np.arange(5, 5 + length, dtype=np.int64) for length in (1, 9, 40)]


def scores(model: RewardModel) -> torch.Tensor:
    with torch.no_grad():
        rewards: torch.Tensor = model(**layout_tensors(plan_layout(ITEMS, model.family, block_queries=16)))
    return rewards


def examples(count: int, seed: int, family: Family) -> list[Example]:
    return encode_records(toy_records(count, seed, 3), tiny_checkpoint(family).formatter, progress=False)


def configuration(run: Path) -> TrainingConfig:
    quick = OptimiserConfig(epochs=5, batch_elements=4, learning_rate=1e-2, head_learning_rate=1e-2, patience=0)
    return TrainingConfig(run=run, progress=False, model=ModelConfig(block_queries=16), optimiser=quick)


@pytest.mark.parametrize("family", list(Family))
def test_adapters_and_head_alone_learn(tmp_path: Path, family: Family) -> None:
    model = tiny_checkpoint(family).model.eval()
    plain = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    untrained, head = scores(model), model.head.weight.detach().clone()
    add_adapters(model, rank=4, alpha=16)
    assert torch.equal(scores(model), untrained)  # an adapter begins as nothing
    learning = sum(parameter.numel() for parameter in model.backbone.parameters() if parameter.requires_grad)
    assert 0 < learning < 0.5 * sum(tensor.numel() for tensor in plain.values())
    fit(model, examples(48, 1, family), examples(8, 2, family), configuration(tmp_path))
    assert not torch.equal(model.head.weight, head)
    frozen = {name.replace("base_layer.", ""): tensor for name, tensor in model.backbone.state_dict().items()}
    for name, tensor in plain.items():
        assert torch.equal(frozen[f"base_model.model.{name}"], tensor), name
    trained = scores(model)
    merge_adapters(model)
    assert model.backbone.state_dict().keys() == plain.keys()
    torch.testing.assert_close(scores(model), trained, rtol=1e-4, atol=1e-5)
    held_out = examples(40, 3, family)
    pairs = judged_pairs(held_out, score_examples(model, held_out, 16))
    assert metrics.accuracy(pairs.margin, pairs.preference) > 0.8


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("adapters", [False, True])
def test_activations_computed_again_change_nothing_but_memory(family: Family, adapters: bool) -> None:
    def gradients(again: bool) -> dict[str, torch.Tensor]:
        model = tiny_checkpoint(family).model
        if again:
            model.checkpoint_gradients()
        if adapters:
            add_adapters(model, 4, 16)
        model.train()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t
        ):
            rewards = model(**layout_tensors(plan_layout(ITEMS, family, block_queries=16)))
        rewards.square().sum().backward()
        saved[again] = sum(kept)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    saved: dict[bool, int] = {}
    torch.manual_seed(0)
    plain = gradients(False)
    torch.manual_seed(0)
    again = gradients(True)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)
    assert saved[True] < 0.5 * saved[False]


def test_layers_with_a_dropout_of_their_own_have_none_when_computed_again() -> None:
    """OPT's layers drop out by their own flag, which tells them to compute again."""
    backbone = tiny_backbone("opt", ffn_dim=64, word_embed_proj_dim=32, dropout=0.5)
    prepare(backbone)
    model = RewardModel(backbone, Family.CAUSAL, Pooling.LAST)
    model.checkpoint_gradients()
    model.train()
    batch = layout_tensors(plan_layout(ITEMS, Family.CAUSAL, block_queries=16))
    assert torch.equal(model(**batch), model(**batch))
