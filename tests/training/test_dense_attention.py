"""Plain products give what the fused kernel gives, and its gradient, within the rounding of bf16."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from service.bundle.layout import Family, plan_layout
from tests.training.tiny import DISENTANGLED, tiny_backbone, tiny_checkpoint
from training import attention
from training import dense_attention as dense
from training.backbone import prepare
from training.dense_attention import MOST_KEYS, dense_attention, is_faster
from training.examples import layout_tensors
from training.model import RewardModel

ROUNDING = 3 * 2**-6
"""Of sums of products whose factors have 8 bits."""


def error(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    """The norm of the difference, beside that of the values."""
    return float((mine.float() - theirs).norm() / theirs.norm())


@settings(deadline=None)
@given(
    blocks=st.integers(1, 3), heads=st.integers(1, 3), queries=st.integers(1, 40), keys=st.integers(2, 40),
    width=st.sampled_from([8, 32]), factor=st.sampled_from([0.2, 1.0]), seed=st.integers(0, 99),
    learnt=st.booleans(),
)  # fmt: skip
def test_result_and_gradient(
    blocks: int, heads: int, queries: int, keys: int, width: int, factor: float, seed: int, learnt: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(length: int) -> torch.Tensor:
        return torch.randn(blocks, heads, length, width, generator=generator).bfloat16()

    seen = torch.rand(blocks, 1, queries, keys, generator=generator) < 0.7
    seen[..., 0] = True  # of a row that sees nothing, and is not read, the fused kernel gives another gradient
    bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.bfloat16).min).bfloat16()
    values = [drawn(queries), drawn(keys), drawn(keys)]
    if learnt:  # of distances, for each head
        values.append(torch.randn(blocks, heads, queries, keys, generator=generator).bfloat16())
    upstream = drawn(queries)

    query, key, value, *more = mine = [part.clone().requires_grad_() for part in values]
    result = dense_attention(query, key, value, sum(more, bias), factor)
    gradients = torch.autograd.grad(result, mine, upstream)

    query, key, value, *more = theirs = [part.float().requires_grad_() for part in values]
    expected = scaled_dot_product_attention(query, key, value, attn_mask=sum(more, bias.float()), scale=factor)
    expected_gradients = torch.autograd.grad(expected, theirs, upstream.float())

    assert result.dtype is torch.bfloat16
    assert error(result.detach(), expected.detach()) < ROUNDING
    for number, (gradient, wanted) in enumerate(zip(gradients, expected_gradients, strict=True)):
        if wanted.abs().max() > 0.1:  # with one key that is seen, a share does not depend on its logit
            assert error(gradient, wanted) < ROUNDING, number


def test_what_all_values_have_in_common_gives_no_gradient() -> None:
    """Shares are rounded, and do not sum to 1: what is common would show, were it not taken away first."""
    errors = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        parts = [torch.randn(2, 2, length, 32, generator=generator).bfloat16() for length in (20, 16, 16, 20)]
        query, key, value, upstream = parts[0], parts[1], parts[2] + 8, parts[3]
        bias = torch.zeros(2, 1, 20, 16).bfloat16()
        mine, theirs = query.clone().requires_grad_(), query.float().requires_grad_()
        (gradient,) = torch.autograd.grad(dense_attention(mine, key, value, bias, 1.0), mine, upstream)
        expected = scaled_dot_product_attention(theirs, key.float(), value.float(), scale=1.0)
        (wanted,) = torch.autograd.grad(expected, theirs, upstream.float())
        errors.append(error(gradient, wanted))
    assert sum(errors) / len(errors) < 0.025


KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "bert": {},
    "mistral": {},
    "gemma3_text": {"head_dim": 8, "sliding_window": 7},
    "mpnet": {},
    "deberta-v2": DISENTANGLED,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(kind, 0, **KINDS[kind])
    prepare(backbone)
    family = Family.BIDIRECTIONAL if kind in ("bert", "mpnet", "deberta-v2") else Family.CAUSAL
    model = RewardModel(backbone, family, tiny_checkpoint(family).model.pooling)
    torch.nn.init.normal_(model.head.weight)
    generator = np.random.default_rng(0)
    # Blocks of several lengths: the longest has queries that are there for padding alone, and see nothing.
    stems = [generator.integers(5, 200, length) for length in (70, 20)]
    tails = [generator.integers(5, 200, length) for length in (1, 9, 20)]
    sequences = [*(np.concatenate([stem, tail]) for stem in stems for tail in tails), generator.integers(5, 200, 9)]
    tensors = layout_tensors(plan_layout(sequences, family, block_queries=16))
    direction = torch.randn(len(sequences), 1, generator=torch.Generator().manual_seed(0))

    def learnt() -> tuple[torch.Tensor, list[torch.Tensor]]:
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(**tensors)
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found = torch.autograd.grad((scores * direction).sum(), wanted, allow_unused=True)
        return scores.detach(), [gradient for gradient in found if gradient is not None]

    with monkeypatch.context() as patch:
        patch.delattr(attention, "scaled_dot_product_attention")  # it is not what computes
        scores, gradients = learnt()
    monkeypatch.setattr(attention, "is_faster", lambda query, keys: False)
    expected, expected_gradients = learnt()
    assert error(scores, expected) < ROUNDING
    flat, expected_flat = (torch.cat([part.flatten() for part in parts]) for parts in (gradients, expected_gradients))
    assert torch.nn.functional.cosine_similarity(flat, expected_flat, dim=0) > 0.999


@pytest.mark.parametrize(("deviation", "most"), [(1.0, 0.01), (16.0, 0.1)])
def test_large_logits_are_rounded_more(deviation: float, most: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value, upstream = (torch.randn(4, 2, 32, 32, generator=generator).bfloat16() for _ in range(4))
    bias, factor = torch.zeros(4, 1, 32, 32).bfloat16(), deviation / 32**0.5
    mine, theirs = query.clone().requires_grad_(), query.double().requires_grad_()
    (gradient,) = torch.autograd.grad(dense_attention(mine, key, value, bias, factor), mine, upstream)
    expected = scaled_dot_product_attention(theirs, key.double(), value.double(), scale=factor)
    (wanted,) = torch.autograd.grad(expected, theirs, upstream.double())
    assert error(gradient, wanted) < most


def test_the_fused_kernel_is_kept_where_it_is_as_fast_or_smaller() -> None:
    query = torch.zeros(1, requires_grad=True)
    assert not is_faster(query, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_faster(query, MOST_KEYS)
        assert not is_faster(query, MOST_KEYS + 1)
        assert not is_faster(query.detach(), 8)
        with torch.no_grad():
            assert not is_faster(query, 8)
    with torch.autocast("cpu", torch.float16):
        assert not is_faster(query, 8)
    assert is_faster(query.bfloat16(), 8)
    assert not is_faster(query.to("meta").bfloat16(), 8)


def test_blocks_of_many_keys_take_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def counted(query: torch.Tensor, key: torch.Tensor, *arguments: Any) -> torch.Tensor:
        taken.append(key.shape[2])
        return dense_attention(query, key, *arguments)

    monkeypatch.setattr(attention, "dense_attention", counted)
    monkeypatch.setattr(dense, "MOST_KEYS", 100)
    model = tiny_checkpoint(Family.CAUSAL).model
    generator = np.random.default_rng(0)
    sequences = [generator.integers(5, 200, length) for length in (30, 40, 200, 210)]
    tensors = layout_tensors(plan_layout(sequences, Family.CAUSAL, block_queries=32))
    with torch.autocast("cpu", torch.bfloat16):
        model(**tensors).sum().backward()
    assert taken
    assert max(taken) <= 100 < max(tensors[f"key_index_{group}"].shape[1] for group in range(2))
