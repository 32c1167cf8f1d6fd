"""Attention in plain products of matrices: faster than the fused kernel where a CPU computes gradients in bf16."""

from typing import Any

import torch
from torch.amp.autocast_mode import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

MOST_KEYS = 512
"""Of a block: a share is kept for each query and key, which in a long context would take more memory than all else."""


def is_faster(query: torch.Tensor, keys: int) -> bool:
    """Whether to take `dense_attention` in place of `scaled_dot_product_attention`, for blocks of so many `keys`.

    The gradient of torch's fused kernel is slow for the short rows of a layout's blocks, on a CPU in bf16
    (`benchmarks.training.profile` times a step with each); in float32 it is as fast. What is scored or exported has no
    gradient, and keeps the kernel.
    """
    if query.device.type != "cpu" or keys > MOST_KEYS or not (torch.is_grad_enabled() and query.requires_grad):
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return query.dtype is torch.bfloat16


def dense_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, factor: float
) -> torch.Tensor:
    """softmax(factor * query key^T + bias) value, with a gradient for all tensors.

    Logits are rounded to bf16, as in attention that is written out under autocast; sums are float32. The fused kernel
    does not round them, and is more exact where they are large: of a standard deviation of 16, the gradient's error is
    some 5 % here and 1 % there, of 1 it is below 1 % in both. The gradient is that of Dao et al. (2022), appendix B.2,
    with the shares kept, two bytes each.

    Args:
        query: (B, heads, Q, head_dim), in bf16, as all are under autocast.
        key: (B, heads, K, head_dim).
        value: (B, heads, K, value_dim).
        bias: (B, 1, Q, K), or (B, heads, Q, K), which alone may learn.
        factor: on the logits.

    Returns:
        (B, heads, Q, value_dim).
    """
    result: torch.Tensor = _DenseAttention.apply(query, key, value, bias, factor)  # type: ignore[no-untyped-call]
    return result


class _DenseAttention(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, factor: float
    ) -> torch.Tensor:
        query = query * factor
        logits = torch.matmul(query, key.mT).add_(bias)
        shares = torch.softmax(logits, -1)  # computed in float32 inside, rounded at its end
        result = torch.matmul(shares, value)
        ctx.save_for_backward(query, key, value, shares, result)
        ctx.factor = factor
        return result

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(  # type: ignore[override]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        query, key, value, shares, result = ctx.saved_tensors
        # The softmax's gradient takes from each row its mean weighed by shares. Their rounded sum is not quite 1, which
        # would show where one share is nearly all: so the mean is taken away before, and what is left of it again.
        mean = (gradient.float() * result.float()).sum(-1, keepdim=True).to(gradient.dtype)
        of_shares = torch.matmul(gradient, value.mT).sub_(mean)
        of_logits = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        of_query = torch.matmul(of_logits, key) * ctx.factor
        of_bias = of_logits if ctx.needs_input_grad[3] else None
        return of_query, torch.matmul(of_logits.mT, query), torch.matmul(shares.mT, gradient), of_bias, None
