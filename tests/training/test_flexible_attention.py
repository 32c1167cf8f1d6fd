"""The kernel for GPUs gives what the blocks give: on the CPU it is computed whole, and has no gradient."""

import numpy as np
import pytest
import torch

from service.bundle.layout import Family, Pooling, plan_layout
from tests.training.tiny import tiny_backbone, tiny_checkpoint
from training.attention import UnsupportedBackboneError
from training.backbone import prepare
from training.examples import layout_tensors
from training.model import RewardModel


def trees() -> list[np.ndarray]:  # type: ignore[type-arg]
    """Two prompts with branching responses and one alone, over more than one tile of the kernel."""
    generator = np.random.default_rng(0)
    stems = [generator.integers(5, 200, length) for length in (70, 20)]
    tails = [generator.integers(5, 200, length) for length in (1, 9, 20)]
    return [*(np.concatenate([stem, tail]) for stem in stems for tail in tails), generator.integers(5, 200, 9)]


@pytest.mark.parametrize("kind", ["llama", "bert", "mistral", "gemma3_text"])
def test_scores_are_those_of_the_blocks(kind: str) -> None:
    backbone = tiny_backbone(kind, 0, **({"head_dim": 8, "sliding_window": 7} if kind == "gemma3_text" else {}))
    prepare(backbone)
    family = Family.BIDIRECTIONAL if kind == "bert" else Family.CAUSAL
    pooling = tiny_checkpoint(family).model.pooling
    model = RewardModel(backbone, family, pooling).eval()
    torch.nn.init.normal_(model.head.weight)
    tensors = layout_tensors(plan_layout(trees(), family, block_queries=16))
    with torch.no_grad():
        blocks = model(**tensors)
        model.use_flexible_attention()
        torch.testing.assert_close(model(**tensors), blocks, rtol=1e-4, atol=1e-5)


def test_dropout_is_refused() -> None:
    model = tiny_checkpoint(Family.CAUSAL, dropout=True).model
    with pytest.raises(UnsupportedBackboneError, match="has no dropout"):
        model.use_flexible_attention()


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2"])
def test_logits_that_depend_on_distances_are_refused(kind: str) -> None:
    backbone = tiny_backbone(kind)
    prepare(backbone)
    model = RewardModel(backbone, Family.BIDIRECTIONAL, Pooling.MEAN)
    with pytest.raises(UnsupportedBackboneError, match="by distance, in blocks only"):
        model.use_flexible_attention()
