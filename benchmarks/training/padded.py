"""The reward model as everybody else computes it: every response a row with its prompt, padded to the longest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from service.bundle.layout import Pooling
from training.encoding import Example
from training.model import RewardModel

Pair = tuple[list[int], list[int]]
"""Token ids of the preferred and of the other response, each with its prompt."""


class PaddedRewardModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The weights of a `RewardModel` over padded rows, with transformers' own attention; the same scores."""

    def __init__(self, model: RewardModel) -> None:
        config = model.backbone.config
        config.num_labels = 1
        super().__init__(config)
        self.backbone: Any = model.backbone
        self.backbone.set_attn_implementation("sdpa")
        self.score: nn.Linear = model.head
        self.pooling = model.pooling

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool | None = None
    ) -> SequenceClassifierOutputWithPast:
        """(rows, length) int64 twice -> logits (rows, 1) float32."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            if self.pooling is Pooling.MEAN:
                mask = attention_mask[..., None].float()
                pooled = (hidden * mask).sum(1) / mask.sum(1)
            else:
                rows = torch.arange(len(hidden), device=hidden.device)
                pooled = hidden[rows, attention_mask.sum(1) - 1]
            return SequenceClassifierOutputWithPast(logits=self.score(pooled))


def pairs_of(examples: Sequence[Example]) -> list[Pair]:
    """Every judgement of every example, in order."""
    found = []
    for example in examples:
        ids = [item.ids.tolist() for item in example.items]
        for judgement in example.record.judgements:
            first, second = ids[judgement.i], ids[judgement.j]
            found.append((first, second) if judgement.i_wins > judgement.j_wins else (second, first))
    return found


def rows_of(pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (2 pairs, longest), the preferred ones first, padded on the right."""
    rows = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids, mask
