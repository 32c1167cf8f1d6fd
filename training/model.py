"""The reward model: a backbone and scalar heads over the arrays of a layout."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from service.bundle.layout import BLOCK_GROUPS, BLOCK_INPUTS, Family, Pooling
from training.attention import ATTENTION_NAME, BlockPlan, BlockTensors, UnsupportedBackboneError
from training.heads import Heads
from training.relative_attention import depends_on_distance


class RewardModel(nn.Module):
    """Scores over a layout: the same module in training, at export and in the parity gate.

    The head is linear without bias (Bradley-Terry does not see an offset), float32, and starts at a normal
    of standard deviation 1 / (hidden + 1), so that the first loss is ln 2 within rounding.

    `tie_threshold` is what losses with ties learn beside the scores; it is no part of the graph.

    Args:
        backbone: a transformers model without head, prepared by `training.backbone.prepare`.
        family: causal or bidirectional.
        pooling: where a score is read; causal models take `LAST` only.
        heads: the linear heads and what is made of them.
        transform: an activation by its name in transformers, before which the pooled states pass a dense layer, and
            after which the heads have a bias: of classifiers that were trained elsewhere.
        dropout: let the backbone's dropout act in training mode.

    Raises:
        ValueError: a pooling that the family does not have.
        UnsupportedBackboneError: layers that keep a state, or an attention that cannot be replaced.
    """

    _weights: torch.Tensor

    def __init__(
        self,
        backbone: PreTrainedModel,
        family: Family,
        pooling: Pooling,
        heads: Heads = Heads(),
        *,
        transform: str | None = None,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        if (family is Family.CAUSAL) != (pooling is Pooling.LAST):
            wanted = "last" if family is Family.CAUSAL else "mean or first"
            raise ValueError(f"model.pooling: a {family} model cannot be pooled by {pooling}; it takes {wanted}")
        refuse_other_layers(backbone)
        if backbone.config.get_text_config()._attn_implementation != ATTENTION_NAME:
            raise UnsupportedBackboneError(
                f"{type(backbone).__name__} does not run attention over blocks; pass it to `prepare`"
            )
        self.backbone = backbone
        self.family = family
        self.pooling = pooling
        self.heads = heads
        self.dropout = dropout
        hidden = backbone.config.get_text_config().hidden_size
        self.transform = None if transform is None else nn.Sequential(nn.Linear(hidden, hidden), ACT2FN[transform])
        self.head = nn.Linear(hidden, len(heads.weights), bias=transform is not None, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=1 / (hidden + 1))
        self.tie_threshold = nn.Parameter(torch.zeros(1, dtype=torch.float32))  # FSDP takes no scalars
        weights = torch.tensor(list(heads.weights.values()), dtype=torch.float32)
        self.register_buffer("_weights", weights, persistent=False)
        self.flexible = False
        self._position_offset = position_offset(backbone)
        self._extra_inputs = _extra_inputs(backbone)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        name = f"{prefix}tie_threshold"
        if name in state_dict:  # checkpoints of before FSDP hold a scalar
            state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def train(self, mode: bool = True) -> Self:
        """Training mode; without `dropout` the backbone stays in evaluation mode.

        A reward must not differ between two copies of a text within a step.
        """
        super().train(mode)
        if not self.dropout:
            self.backbone.train(False)
        for layer in self.backbone.modules():
            # The layer itself asks whether it trains, to compute its inside again; what is in it must not think so.
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                layer.training = mode
        return self

    @property
    def on_top(self) -> nn.ModuleDict:
        """The layers that turn pooled states into scores; their weights have the same names as in this module."""
        transform = {} if self.transform is None else {"transform": self.transform}
        return nn.ModuleDict({"head": self.head, **transform})

    def checkpoint_gradients(self) -> None:
        """Keep the activations between layers alone, and compute those within again for the gradient.

        Raises:
            UnsupportedBackboneError: the backbone cannot.
        """
        try:
            self.backbone.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise UnsupportedBackboneError(f"model.gradient_checkpointing: {error}") from error
        if self.dropout:
            return
        # `train` lets these layers think that they train, and some (OPT's) have a dropout of their own.
        for layer in self.backbone.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                for name, value in list(vars(layer).items()):
                    if name.endswith("dropout") and isinstance(value, float):
                        setattr(layer, name, 0.0)

    def use_flexible_attention(self) -> None:
        """Attend in one kernel over all tokens, see `training.attention.BlockPlan`; without dropout.

        Raises:
            UnsupportedBackboneError: dropout acts on attention here, or logits depend on distances, which the kernel
                does not have.
        """
        if self.dropout:
            raise UnsupportedBackboneError("model.attention flex has no dropout; turn model.dropout off")
        if depends_on_distance(self.backbone):
            raise UnsupportedBackboneError(
                f"model.attention flex: {type(self.backbone).__name__} adds to its logits by distance, in blocks only"
            )
        self.flexible = True

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seen_from: torch.Tensor,
        seen_to: torch.Tensor,
        unblock_index: torch.Tensor,
        read_index: torch.Tensor,
        **blocks: torch.Tensor,
    ) -> torch.Tensor:
        """Scores (N, `heads.outputs`) float32; arguments are `service.bundle.layout.Layout.arrays()` as tensors."""
        plan = BlockPlan(position_ids, seen_from, seen_to, unblock_index, block_tensors(blocks), self.flexible)
        hidden = self.hidden_states(input_ids, plan)
        # Under autocast the head would run in bf16, whose steps make false ties between close scores.
        with torch.autocast(hidden.device.type, enabled=False):
            pooled = self._pool(hidden.float(), plan, read_index)
            return self._combine(self.head(pooled if self.transform is None else self.transform(pooled)))

    def _combine(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the linear heads (N, K) -> `heads.outputs` (N, H)."""
        if self.heads.kind == "single":
            return scores
        reward = (scores * self._weights).sum(1, keepdim=True)
        if self.heads.kind == "aspects":
            return torch.cat([reward, scores], 1)
        # Nothing learns from the spread, and the gradient of its root is infinite where all agree.
        squares = (scores.detach() - scores.detach().mean(1, keepdim=True)).square()
        spread = (squares.sum(1, keepdim=True) / (scores.shape[1] - 1)).sqrt()
        return torch.cat([reward, spread, scores], 1)

    def hidden_states(self, input_ids: torch.Tensor, plan: BlockPlan) -> torch.Tensor:
        """The backbone's last hidden states (T, hidden) over the flat tokens `input_ids` (T,)."""
        extra: dict[str, Any] = {name: torch.zeros_like(input_ids)[None] for name in self._extra_inputs}
        hidden: torch.Tensor = self.backbone(
            input_ids=input_ids[None],
            position_ids=plan.position_ids[None] + self._position_offset,
            plan=plan,
            **extra,
        ).last_hidden_state
        return hidden[0]

    def _pool(self, hidden: torch.Tensor, plan: BlockPlan, read_index: torch.Tensor) -> torch.Tensor:
        """(T, hidden) -> (N, hidden)."""
        if self.pooling is not Pooling.MEAN:
            return hidden.index_select(0, read_index)
        # A bidirectional sequence is what its first token is seen by. As a product, which rounds less than
        # differences of running sums, and costs next to nothing beside the backbone.
        place = torch.arange(hidden.shape[0], device=hidden.device)
        starts, stops = read_index[:, None], plan.seen_to.index_select(0, read_index)[:, None]
        inside = ((starts <= place) & (place < stops)).to(hidden.dtype)
        return (inside @ hidden) / (stops - starts).to(hidden.dtype)


def block_tensors(blocks: Mapping[str, torch.Tensor]) -> tuple[BlockTensors, ...]:
    """The groups of blocks from the layout's tensors by graph input name."""
    return tuple(
        BlockTensors(**{name: blocks[f"{name}_{group}"] for name in BLOCK_INPUTS}) for group in range(BLOCK_GROUPS)
    )


_LAYERS = {"attention", "full_attention", "sliding_attention"}


def refuse_other_layers(backbone: PreTrainedModel) -> None:
    """Refuse models in which a token sees more than the keys of its block.

    Raises:
        UnsupportedBackboneError: states, convolutions, chunked attention, or an encoder and a decoder.
    """
    config = backbone.config.get_text_config()
    name = type(backbone).__name__
    others = set(getattr(config, "layer_types", None) or ()) - _LAYERS
    if others:
        kinds = ", ".join(sorted(others))
        raise UnsupportedBackboneError(
            f"{name} has layers of kind {kinds}: a prefix cannot be shared between responses there"
        )
    if backbone.config.is_encoder_decoder or getattr(backbone, "_is_stateful", False):
        raise UnsupportedBackboneError(
            f"{name} is recurrent or an encoder with a decoder: a prefix cannot be shared between responses there"
        )


def token_table(backbone: PreTrainedModel) -> nn.Embedding:
    """The embeddings of the token ids.

    Raises:
        UnsupportedBackboneError: it has none.
    """
    table = backbone.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise UnsupportedBackboneError(f"{type(backbone).__name__} has no table of token embeddings")
    return table


def position_offset(backbone: PreTrainedModel) -> int:
    """The position id of a first token: RoBERTa and its kin count on from the padding id."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding_idx = getattr(table, "padding_idx", None)
    return 0 if padding_idx is None else int(padding_idx) + 1


def _extra_inputs(backbone: PreTrainedModel) -> tuple[str, ...]:
    """Segment ids are given as zeros: the default buffer of some models is shorter than a batch is long.

    Only where there is a table of segments: GPT-2 takes them too, and adds the embedding of *token* 0.
    """
    table = getattr(getattr(backbone, "embeddings", None), "token_type_embeddings", None)
    return () if table is None else ("token_type_ids",)
