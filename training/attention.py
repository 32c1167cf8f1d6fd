"""Attention over the blocks of a layout, registered with transformers so that most backbones run unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from training.dense_attention import dense_attention, is_faster
from training.tiles import tile_mask

ATTENTION_NAME = "assay_blocks"


class UnsupportedBackboneError(ValueError):
    """The backbone computes something that attention over blocks cannot: it must be refused, not approximated."""


@dataclass(frozen=True)
class BlockTensors:
    """One group of B blocks; shapes and dtypes as in `service.bundle.layout.BlockGroup`."""

    query_index: torch.Tensor
    key_index: torch.Tensor
    key_valid: torch.Tensor


@dataclass(frozen=True)
class BlockPlan:
    """The layout's tensors that attention needs; shapes and dtypes as in `service.bundle.layout.Layout`.

    With `flexible`, attention runs over all tokens at once in a kernel that skips what nobody sees
    (FlexAttention, Dong et al. 2024, arXiv 2412.05496), in place of the blocks.
    """

    position_ids: torch.Tensor
    seen_from: torch.Tensor
    seen_to: torch.Tensor
    unblock_index: torch.Tensor
    groups: tuple[BlockTensors, ...]
    flexible: bool = False
    _masks: dict[int | None, BlockMask] = field(default_factory=dict, init=False)
    _bias: dict[tuple[int, int | None, int, torch.dtype], torch.Tensor] = field(default_factory=dict, init=False)

    def mask(self, window: int | None) -> BlockMask:
        """What each token sees, by tiles, for `flex_attention`; made once a forward pass for each kind of layer."""
        if window not in self._masks:
            self._masks[window] = tile_mask(self.position_ids, self.seen_from, self.seen_to, window)
        return self._masks[window]

    @property
    def windows(self) -> set[int | None]:
        """The windows that the layers asked for so far; None for full attention."""
        return {window for _, window, _, _ in self._bias}

    def bias(self, group: int, window: int | None, copies: int, dtype: torch.dtype) -> torch.Tensor:
        """(B, 1, copies * Q, K) of one group, 0 where a query sees a key and a large negative number where not.

        Computed once a forward pass for each kind of layer, not once a layer. Finite, because every query sees at
        least the root of its tree, and a softmax over infinities needs a guard that costs more than the mask.

        Args:
            group: which of `groups`.
            window: for sliding-window layers, the number of latest positions seen, the query's own included;
                a bidirectional model sees as far on the other side.
            copies: query heads to one key head; the query axis holds one copy of the block for each.
            dtype: of the attention logits.
        """
        key = (group, window, copies, dtype)
        if key not in self._bias:
            visible = self._visible(self.groups[group], window)
            bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            bias = bias.masked_fill(~visible, torch.finfo(dtype).min)
            self._bias[key] = bias.repeat(1, copies, 1)[:, None]
        return self._bias[key]

    def _visible(self, group: BlockTensors, window: int | None) -> torch.Tensor:
        """(B, Q, K) bool: which keys each query sees."""
        queries, keys = group.query_index[:, :, None], group.key_index
        seen_from, seen_to = gather_rows(self.seen_from, keys)[:, None], gather_rows(self.seen_to, keys)[:, None]
        visible = group.key_valid[:, None] & (seen_from <= queries) & (queries < seen_to)
        if window is not None:
            positions = gather_rows(self.position_ids, group.query_index)[:, :, None]
            distance = positions - gather_rows(self.position_ids, keys)[:, None]
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
    return attend_blocks(query, key, value, plan, scaling=scaling, dropout=dropout, window=sliding_window), None


def attend_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: BlockPlan,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
    relative: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """Attention over the blocks of `plan`: (1, T, heads, head_dim), arguments as of `block_attention`.

    Args:
        relative: for each group (B, heads, Q, K), what is added to its logits; only with as many key heads as heads.
    """
    if plan.flexible:
        if relative:
            raise UnsupportedBackboneError("logits that depend on distances are computed in blocks only")
        return _flexible(query, key, value, plan.mask(window), scaling)
    # (1, heads, T, head_dim) -> (T, heads * head_dim)
    q, k, v = (states[0].transpose(0, 1).flatten(1) for states in (query, key, value))
    copies = query.shape[1] // key.shape[1]
    results = []
    for number, group in enumerate(plan.groups):
        dense = not dropout and is_faster(query, group.key_index.shape[1])
        dtype = torch.bfloat16 if dense else query.dtype  # in which the large number of a bias is finite
        bias = plan.bias(number, window, copies, dtype)
        if relative:
            bias = bias + relative[number].to(dtype)
        results.append(_attend(q, k, v, group, bias, key.shape[1], dropout, scaling, dense))
    flat = torch.cat(results).index_select(0, plan.unblock_index)
    return flat.view(1, -1, query.shape[1], value.shape[3])


def _flexible(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scaling: float | None
) -> torch.Tensor:
    """(1, heads, T, head_dim) of each -> (1, T, heads, head_dim)."""
    attend = _compiled() if query.is_cuda else flex_attention  # elsewhere it is computed whole, to be tested
    result: torch.Tensor = attend(
        query, key, value, block_mask=mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
    )
    return result.transpose(1, 2)


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: BlockTensors, bias: torch.Tensor,
    key_heads: int, dropout: float, scaling: float | None, dense: bool,
) -> torch.Tensor:  # fmt: skip
    """Attention of one group: rows (T, heads * head_dim) of each, and bias -> (B * Q, heads * value_dim)."""
    blocks, queries = group.query_index.shape
    copies = bias.shape[2] // queries
    # Every group of heads is more queries on the same keys: (B, key_heads, copies * Q, head_dim).
    q = gather_rows(query, group.query_index).view(blocks, queries, key_heads, copies, -1).permute(0, 2, 3, 1, 4)
    k = gather_rows(key, group.key_index).view(blocks, -1, key_heads, key.shape[1] // key_heads).transpose(1, 2)
    v = gather_rows(value, group.key_index).view(blocks, -1, key_heads, value.shape[1] // key_heads).transpose(1, 2)
    q = q.flatten(2, 3)
    if dense:
        result = dense_attention(q, k, v, bias, q.shape[-1] ** -0.5 if scaling is None else scaling)
    else:
        result = scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scaling)
    result = result.view(blocks, key_heads, copies, queries, -1).permute(0, 3, 1, 2, 4)
    return result.reshape(blocks * queries, -1)


AttentionInterface.register(ATTENTION_NAME, block_attention)
