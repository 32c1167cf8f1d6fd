"""Encoders whose attention depends on how far two tokens are apart, over blocks: MPNet, DeBERTa v2 and v3.

transformers computes these outside of its attention interface, from the places of tokens in a padded row. So what is
outside of their layers, and the attention within, is computed here, with distances from the positions of a layout.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from transformers import DebertaV2Model, MPNetModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from training.attention import BlockPlan, BlockTensors, UnsupportedBackboneError, attend_blocks, gather_rows

Tensors = tuple[torch.Tensor, ...]


def replace_attention(model: PreTrainedModel, longest: int) -> bool:
    """Let a backbone of one of these kinds take a plan, in place; whether it is of one.

    Args:
        model: untouched.
        longest: the most tokens of an item.

    Raises:
        UnsupportedBackboneError: a convolution beside the first layer (DeBERTa v2 xlarge and xxlarge).
    """
    distances = torch.arange(1 - longest, longest)
    if isinstance(model, MPNetModel):
        encoder: Any = model.encoder
        buckets = encoder.relative_position_bucket(distances)  # of 32, whatever the configuration says
        _replace(model, _mpnet, MPNetSelfAttention, _mpnet_attention)
    elif isinstance(model, DebertaV2Model):
        if model.encoder.conv is not None:
            raise UnsupportedBackboneError("DebertaV2Model has a convolution: a token depends on more than attention")
        buckets = _deberta_buckets(model.encoder, -distances)
        _replace(model, _deberta, DisentangledSelfAttention, _deberta_attention)
    else:
        return False
    # Worked out once: logarithms that round otherwise in another runtime would take a distance to another bucket.
    model.register_buffer("distance_buckets", buckets, persistent=False)
    return True


def depends_on_distance(model: PreTrainedModel) -> bool:
    """Whether `replace_attention` has done it."""
    return hasattr(model, "distance_buckets")


def _replace(
    model: nn.Module, forward: Callable[..., Any], attention: type[nn.Module], attend: Callable[..., Any]
) -> None:
    model.forward = MethodType(forward, model)
    for module in model.modules():
        if isinstance(module, attention):
            module.forward = MethodType(attend, module)


def _buckets(model: PreTrainedModel, plan: BlockPlan) -> Tensors:
    """For each group (B, Q, K) int64: the bucket of the distance of a key from a query."""
    table = cast(torch.Tensor, model.distance_buckets)
    zero = len(table) // 2

    def of(group: BlockTensors) -> torch.Tensor:
        queries = gather_rows(plan.position_ids, group.query_index)[:, :, None]
        keys = gather_rows(plan.position_ids, group.key_index)[:, None]
        distance = keys - queries + zero
        return table.index_select(0, distance.flatten()).view(distance.shape)

    return tuple(of(group) for group in plan.groups)


def _mpnet(self: MPNetModel, input_ids: torch.Tensor, position_ids: torch.Tensor, plan: BlockPlan) -> BaseModelOutput:
    """A learnt number for each head and bucket, the same in all layers (Song et al. 2020; Raffel et al. 2020, 2.1)."""
    hidden = self.embeddings(input_ids=input_ids, position_ids=position_ids)
    table = self.encoder.relative_attention_bias
    relative = tuple(table(buckets).permute(0, 3, 1, 2) for buckets in _buckets(self, plan))
    for layer in self.encoder.layer:
        hidden = layer(hidden, plan, relative)[0]
    return BaseModelOutput(last_hidden_state=hidden)


def _mpnet_attention(
    self: MPNetSelfAttention, hidden_states: torch.Tensor, attention_mask: BlockPlan, position_bias: Tensors, **_: Any
) -> tuple[torch.Tensor]:
    query, key, value = (_by_head(self, layer(hidden_states)) for layer in (self.q, self.k, self.v))
    result = attend_blocks(query, key, value, attention_mask, dropout=_dropout(self), relative=position_bias)
    return (self.o(result.flatten(2)),)


def _deberta_buckets(encoder: Any, distances: torch.Tensor) -> torch.Tensor:
    """Rows of the embeddings of distances, for `distances` of queries from keys."""
    if not encoder.relative_attention:
        return torch.zeros_like(distances)
    if encoder.position_buckets > 0:
        distances = make_log_bucket_position(distances, encoder.position_buckets, encoder.max_relative_positions).long()
    rows: int = encoder.rel_embeddings.num_embeddings
    return (distances + rows // 2).clamp(0, rows - 1)


def _deberta(
    self: DebertaV2Model,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    plan: BlockPlan,
    token_type_ids: torch.Tensor | None = None,
) -> BaseModelOutput:
    """Products of contents with embeddings of distances ("disentangled attention", He et al. 2021, eq. 4)."""
    hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
    encoder: Any = self.encoder
    table = encoder.get_rel_embedding()
    buckets = () if table is None else _buckets(self, plan)
    for layer in encoder.layer:
        hidden = layer(hidden, plan, relative_pos=buckets, rel_embeddings=table)[0]
    return BaseModelOutput(last_hidden_state=hidden)


def _deberta_attention(
    self: DisentangledSelfAttention,
    hidden_states: torch.Tensor,
    attention_mask: BlockPlan,
    *_: Any,
    relative_pos: Tensors,
    rel_embeddings: torch.Tensor | None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    plan = attention_mask
    query, key, value = (
        _by_head(self, layer(hidden_states)) for layer in (self.query_proj, self.key_proj, self.value_proj)
    )
    kinds = [kind for kind in ("c2p", "p2c") if kind in self.pos_att_type]
    scaling = (self.attention_head_size * (1 + len(kinds))) ** -0.5
    relative: Sequence[torch.Tensor] = ()
    if rel_embeddings is not None and kinds:
        table = self.pos_dropout(rel_embeddings)[None]
        # (T, heads, rows): every content with every distance; the groups take from it what they need.
        of_query, of_key = None, None
        if "c2p" in kinds:
            project = self.key_proj if self.share_att_key else self.pos_key_proj
            of_query = (query @ _by_head(self, project(table)).mT)[0].transpose(0, 1) * scaling
        if "p2c" in kinds:
            project = self.query_proj if self.share_att_key else self.pos_query_proj
            of_key = (key @ _by_head(self, project(table)).mT)[0].transpose(0, 1) * scaling
        relative = [_disentangled(of_query, of_key, *group) for group in zip(plan.groups, relative_pos, strict=True)]
    result = attend_blocks(query, key, value, plan, scaling=scaling, dropout=_dropout(self), relative=relative)
    return result.flatten(2), None


def _disentangled(
    of_query: torch.Tensor | None, of_key: torch.Tensor | None, group: BlockTensors, buckets: torch.Tensor
) -> torch.Tensor:
    """(B, heads, Q, K) of one group from products (T, heads, rows) of its queries and keys, by buckets (B, Q, K)."""
    parts = []
    if of_query is not None:
        parts.append(_picked(of_query, group.query_index, buckets))
    if of_key is not None:
        parts.append(_picked(of_key, group.key_index, buckets.mT).mT)
    return sum(parts[1:], parts[0])


def _picked(products: torch.Tensor, index: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
    """Of products (T, heads, rows), tokens (B, I) and buckets (B, I, J) -> (B, heads, I, J)."""
    rows = gather_rows(products, index).transpose(1, 2)
    return rows.gather(-1, buckets[:, None].expand(-1, rows.shape[1], -1, -1))


def _by_head(attention: Any, states: torch.Tensor) -> torch.Tensor:
    """(1, T, heads * head_dim) -> (1, heads, T, head_dim)."""
    return states.view(1, -1, attention.num_attention_heads, attention.attention_head_size).transpose(1, 2)


def _dropout(attention: Any) -> float:
    return float(attention.dropout.p) if attention.training else 0.0
