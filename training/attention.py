"""Attention over the blocks of a layout, registered with transformers so that any backbone runs unchanged."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION_NAME = "assay_blocks"


class UnsupportedBackboneError(ValueError):
    """The backbone computes something that attention over blocks cannot: it must be refused, not approximated."""


@dataclass(frozen=True)
class BlockPlan:
    """The layout's tensors that attention needs; shapes and dtypes as in `service.bundle.layout.Layout`."""

    position_ids: torch.Tensor
    query_index: torch.Tensor
    key_index: torch.Tensor
    key_valid: torch.Tensor
    unblock_index: torch.Tensor
    causal: bool
    _bias: dict[tuple[int | None, int, torch.dtype], torch.Tensor] = field(default_factory=dict, init=False)

    @property
    def windows(self) -> set[int | None]:
        """The windows that the layers asked for so far; None for full attention."""
        return {window for window, _, _ in self._bias}

    def bias(self, window: int | None, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """(B, 1, groups * Q, K), 0 where a query sees a key and a large negative number where not.

        Computed once a forward pass for each kind of layer, not once a layer. Finite, because every query sees at
        least the root of its tree, and a softmax over infinities needs a guard that costs more than the mask.

        Args:
            window: for sliding-window layers, the number of latest positions seen, the query's own included;
                a bidirectional model sees as far on the other side.
            groups: query heads to one key head; the query axis holds one copy of the block for each.
            dtype: of the attention logits.
        """
        key = (window, groups, dtype)
        if key not in self._bias:
            visible = self._visible(window)
            bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            bias = bias.masked_fill(~visible, torch.finfo(dtype).min)
            self._bias[key] = bias.repeat(1, groups, 1)[:, None]
        return self._bias[key]

    def _visible(self, window: int | None) -> torch.Tensor:
        """(B, Q, K) bool: which keys each query sees."""
        visible = self.key_valid[:, None, :].expand(-1, self.query_index.shape[1], -1)
        if not self.causal and window is None:
            return visible
        distance = self.position_ids[self.query_index][:, :, None] - self.position_ids[self.key_index][:, None, :]
        if self.causal:
            visible = visible & (distance >= 0)
        if window is not None:
            visible = visible & (distance.abs() < window)
        return visible


def gather_rows(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """rows (R, ...) and index (A, B) -> (A, B, ...). Exports as one plain Gather on the first axis."""
    return rows.index_select(0, index.flatten()).view(*index.shape, *rows.shape[1:])


# Arguments of transformers' attention functions that change the result and that blocks do not compute.
_REFUSED = {"softcap": "logit soft-capping", "s_aux": "attention sinks", "head_mask": "head masks"}


def block_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    plan: BlockPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over the blocks of `plan`, in the signature that transformers calls.

    Grouped-query heads fold into the query axis, so that K and V are gathered once and never repeated.

    Args:
        query: (1, heads, T, head_dim).
        key: (1, key_heads, T, head_dim), key_heads dividing heads.
        value: as `key`.
        attention_mask: ignored; the plan says what is seen.
        scaling: factor on the logits, 1/sqrt(head_dim) if absent.
        plan: what each block holds; passed through the backbone as a keyword.

    Returns:
        (1, T, heads, head_dim), and no weights.

    Raises:
        UnsupportedBackboneError: the backbone did not pass the plan on, or asks for what blocks do not compute.
    """
    name = type(module).__name__
    if plan is None:
        raise UnsupportedBackboneError(f"{name} does not pass keyword arguments on to its attention")
    for argument, meaning in _REFUSED.items():
        if kwargs.get(argument) is not None:
            raise UnsupportedBackboneError(f"{name} uses {meaning}, which attention over blocks does not compute")
    heads, key_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    groups = heads // key_heads
    blocks, queries = plan.query_index.shape

    # (T, heads, D) -> (B, key_heads, groups * Q, D): every group of heads is more queries on the same keys.
    query_blocks = gather_rows(query[0].transpose(0, 1).reshape(-1, heads * head_dim), plan.query_index)
    query_blocks = query_blocks.view(blocks, queries, key_heads, groups, head_dim).permute(0, 2, 3, 1, 4)
    query_blocks = query_blocks.reshape(blocks, key_heads, groups * queries, head_dim)
    key_blocks = gather_rows(key[0].transpose(0, 1).reshape(-1, key_heads * head_dim), plan.key_index)
    key_blocks = key_blocks.view(blocks, -1, key_heads, head_dim).transpose(1, 2)
    value_blocks = gather_rows(value[0].transpose(0, 1).reshape(-1, key_heads * value.shape[3]), plan.key_index)
    value_blocks = value_blocks.view(blocks, -1, key_heads, value.shape[3]).transpose(1, 2)

    bias = plan.bias(sliding_window, groups, query.dtype)
    result = scaled_dot_product_attention(
        query_blocks, key_blocks, value_blocks, attn_mask=bias, dropout_p=dropout, scale=scaling
    )
    result = result.view(blocks, key_heads, groups, queries, value.shape[3]).permute(0, 3, 1, 2, 4)
    flat = result.reshape(blocks * queries, heads, value.shape[3]).index_select(0, plan.unblock_index)
    return flat[None], None


AttentionInterface.register(ATTENTION_NAME, block_attention)
