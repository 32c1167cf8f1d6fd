"""A language model of a few thousand weights that answers in random bytes."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.pocket import SPECIAL_IDS
from tests.training.tiny import CHAT, SMALL, causal_tokenizer


def save_policy(folder: Path, template: str | None = CHAT) -> Path:
    """The folder of a random Llama with its tokenizer."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False))
    model.lm_head.weight.data *= 8  # as sure of itself as a trained model, or nothing but noise could be learnt
    model.generation_config.eos_token_id = SPECIAL_IDS["<|end|>"]
    model.save_pretrained(folder)
    causal_tokenizer(template).save_pretrained(folder)
    return folder
