"""The reward model as anybody loads it in transformers: padded rows, the score read at the last token or the mean.

Imports nothing of this project: it runs in the peer's environment, which has none of its dependencies.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer


class PaddedModel:
    """Attributes: folder holds backbone, tokenizer and `head.safetensors`; dtype is that of the weights."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "right"
        self.model: Any = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
        self.head = load_file(folder / "head.safetensors")["weight"].float()
        config = json.loads((folder / "config.json").read_text())
        self.mean = config["model_type"] == "bert"

    @torch.inference_mode()
    def score(self, texts: list[str]) -> list[float]:
        """Raw scores of whole texts whose special tokens are spelled out, in one padded batch."""
        batch = self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        hidden = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state.float()
        mask = batch["attention_mask"]
        if self.mean:
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            pooled = hidden[torch.arange(len(texts)), mask.sum(1) - 1]
        scores: list[float] = (pooled @ self.head.T)[:, 0].tolist()
        return scores
