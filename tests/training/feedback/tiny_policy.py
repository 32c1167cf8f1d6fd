"""A language model of a few thousand weights that answers in printable bytes."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.pocket import SPECIAL_IDS
from tests.training.tiny import _SMALL, CHAT, causal_tokenizer

LETTERS = "abcdefgh"


def save_policy(folder: Path, template: str | None = CHAT) -> Path:
    """The folder of a random Llama with its tokenizer; it mostly says `LETTERS`, and now and then ends."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**_SMALL, tie_word_embeddings=False))
    model.generation_config.eos_token_id = SPECIAL_IDS["<|end|>"]
    model.save_pretrained(folder)
    causal_tokenizer(template).save_pretrained(folder)
    return folder
