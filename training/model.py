"""The reward model: a backbone and scalar heads over the arrays of a layout."""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from service.bundle.layout import Family, Pooling
from training.attention import ATTENTION_NAME, BlockPlan, UnsupportedBackboneError, gather_rows


class RewardModel(nn.Module):
    """Scores over a layout: the same module in training, at export and in the parity gate.

    The head is linear without bias (Bradley-Terry does not see an offset), float32, and starts at a normal
    of standard deviation 1 / (hidden + 1), so that the first loss is ln 2 within rounding.

    Args:
        backbone: a transformers model without head, loaded with the attention named `ATTENTION_NAME`.
        family: causal or bidirectional.
        pooling: where a score is read; causal models take `LAST` only.
        heads: names of the scalar outputs.

    Raises:
        UnsupportedBackboneError: layers that keep a state, or an attention that cannot be replaced.
    """

    def __init__(
        self, backbone: PreTrainedModel, family: Family, pooling: Pooling, heads: tuple[str, ...] = ("reward",)
    ) -> None:
        super().__init__()
        if (family is Family.CAUSAL) != (pooling is Pooling.LAST):
            raise ValueError(f"a {family} model cannot be pooled by {pooling!r}: causal models read their last token")
        _refuse_unsupported(backbone)
        self.backbone = backbone
        self.family = family
        self.pooling = pooling
        self.heads = heads
        hidden = backbone.config.get_text_config().hidden_size
        self.head = nn.Linear(hidden, len(heads), bias=False, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=1 / (hidden + 1))
        self._position_offset = _position_offset(backbone)
        self._extra_inputs = _extra_inputs(backbone)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        query_index: torch.Tensor,
        key_index: torch.Tensor,
        key_valid: torch.Tensor,
        unblock_index: torch.Tensor,
        read_index: torch.Tensor,
    ) -> torch.Tensor:
        """Rewards (N, heads) float32; arguments are the arrays of `service.bundle.layout.Layout`."""
        plan = BlockPlan(
            position_ids, query_index, key_index, key_valid, unblock_index, causal=self.family is Family.CAUSAL
        )
        extra: dict[str, Any] = {name: torch.zeros_like(input_ids)[None] for name in self._extra_inputs}
        hidden = self.backbone(
            input_ids=input_ids[None],
            position_ids=position_ids[None] + self._position_offset,
            plan=plan,
            **extra,
        ).last_hidden_state[0]
        # Under autocast the head would run in bf16, whose steps make false ties between close scores.
        with torch.autocast(hidden.device.type, enabled=False):
            rewards: torch.Tensor = self.head(self._pool(hidden.float(), plan, read_index))
        return rewards

    def _pool(self, hidden: torch.Tensor, plan: BlockPlan, read_index: torch.Tensor) -> torch.Tensor:
        """(T, hidden) -> (N, hidden)."""
        if self.pooling is not Pooling.MEAN:
            return hidden.index_select(0, read_index)
        # A bidirectional sequence is the keys of any of its blocks.
        block = plan.unblock_index[read_index] // plan.query_index.shape[1]
        valid = plan.key_valid.index_select(0, block)[:, :, None].to(hidden.dtype)
        keys = gather_rows(hidden, plan.key_index.index_select(0, block))
        return (keys * valid).sum(1) / valid.sum(1)


def _refuse_unsupported(backbone: PreTrainedModel) -> None:
    """Refuse models whose layers carry a state, and those that do not take a registered attention."""
    config = backbone.config.get_text_config()
    name = type(backbone).__name__
    states = {kind for kind in getattr(config, "layer_types", None) or () if "attention" not in kind}
    states |= {kind for kind in getattr(config, "layer_types", None) or () if "linear" in kind}
    if states or getattr(config, "is_encoder_decoder", False) or getattr(backbone, "_is_stateful", False):
        what = f"layers of kind {', '.join(sorted(states))}" if states else "an encoder-decoder or recurrent structure"
        raise UnsupportedBackboneError(f"{name} has {what}: a prefix cannot be shared between responses there")
    if config._attn_implementation != ATTENTION_NAME:
        raise UnsupportedBackboneError(
            f"{name} runs the attention {config._attn_implementation!r}; load it with attn_implementation="
            f"{ATTENTION_NAME!r} (a backbone that refuses this name cannot be used)"
        )


def _position_offset(backbone: PreTrainedModel) -> int:
    """RoBERTa and its kin number positions from the padding id + 1."""
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    padding_idx = getattr(table, "padding_idx", None)
    return 0 if padding_idx is None else int(padding_idx) + 1


def _extra_inputs(backbone: PreTrainedModel) -> tuple[str, ...]:
    """Segment ids are given as zeros: the default buffer of some models is shorter than a batch is long."""
    return tuple(name for name in inspect.signature(backbone.forward).parameters if name == "token_type_ids")
