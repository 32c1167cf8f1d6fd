"""The classifier as the ordinary ONNX graph, padded rows and a mask, for peers that serve ONNX."""

from pathlib import Path

import torch
from torch import nn
from torch.export import Dim
from transformers import BertForSequenceClassification

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class _Logits(nn.Module):
    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """(rows, length) int64 thrice -> (rows, labels)."""
        logits: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits
        return logits


def export_classifier(model: BertForSequenceClassification, path: Path) -> None:
    """Write the graph with its weights inside, rows and length free."""
    rows, length = Dim("rows", min=1), Dim("length", min=2)
    example = torch.ones((3, 17), dtype=torch.int64)
    with torch.no_grad():
        program = torch.onnx.export(
            _Logits(model).eval(),
            (example, example.clone(), torch.zeros_like(example)),
            dynamo=True,
            dynamic_shapes={name: {0: rows, 1: length} for name in INPUTS},
            input_names=list(INPUTS),
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None  # only without dynamo is nothing returned
    program.save(str(path), external_data=False)
