"""Attention in plain products of matrices: faster than the fused kernel where a CPU computes gradients in bf16."""

from typing import Any

import torch
from torch.amp.autocast_mode import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable


def is_faster(query: torch.Tensor) -> bool:
    """Whether to take `dense_attention` in place of `scaled_dot_product_attention`.

    The gradient of torch's fused kernel is slow for the short rows of a layout's blocks, on a CPU in bf16; in float32,
    and without a gradient, it is as fast. `benchmarks.training.profile` shows what is left.
    """
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and query.requires_grad):
        return False
    return query.dtype is torch.bfloat16 or torch.is_autocast_enabled("cpu")


def dense_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, factor: float
) -> torch.Tensor:
    """softmax(factor * query key^T + bias) value, with a gradient for the first three.

    The softmax is computed in float32. One bf16 share for each logit is kept for the gradient.

    Args:
        query: (B, heads, Q, head_dim), in bf16, as all are under autocast.
        key: (B, heads, K, head_dim).
        value: (B, heads, K, value_dim).
        bias: (B, 1, Q, K).
        factor: on the logits.

    Returns:
        (B, heads, Q, value_dim).
    """
    result: torch.Tensor = _DenseAttention.apply(query, key, value, bias, factor)
    return result


class _DenseAttention(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, factor: float
    ) -> torch.Tensor:
        logits = torch.matmul(query, key.mT)
        shares = torch.add(bias, logits.float(), alpha=factor).softmax(-1).to(value.dtype)
        ctx.save_for_backward(query, key, value, shares)
        ctx.factor = factor
        return torch.matmul(shares, value)

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, shares = ctx.saved_tensors
        of_shares = torch.matmul(gradient, value.mT).float()
        # Rounded shares do not sum to 1; where one of them is nearly all, that would be most of the gradient.
        exact = shares.float()
        exact /= exact.sum(-1, keepdim=True)
        of_logits = torch.ops.aten._softmax_backward_data(of_shares, exact, -1, torch.float32)
        of_logits = (of_logits * ctx.factor).to(query.dtype)
        of_value = torch.matmul(shares.mT, gradient)
        return torch.matmul(of_logits, key), torch.matmul(of_logits.mT, query), of_value, None, None
