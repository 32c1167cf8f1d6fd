"""Tiny random backbones with a byte-level tokenizer, and toy preferences that they can learn."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from service.bundle.layout import Family, Pooling
from service.bundle.manifest import Provenance
from service.bundle.text_format import Formatter
from service.bundle.tokenizer import TextTokenizer
from tests.pocket import SPECIAL_IDS, pocket_text_format, pocket_tokenizer
from training.backbone import prepare
from training.checkpoint import Checkpoint, Description
from training.config import TrainingConfig
from training.data import Judgement, PreferenceRecord
from training.heads import Heads
from training.model import RewardModel

CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PAD_ID = 256 + len(SPECIAL_IDS)
VOCABULARY = 320

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": PAD_ID,
    "bos_token_id": SPECIAL_IDS["[CLS]"],
    "eos_token_id": SPECIAL_IDS["<|end|>"],
}


def causal_tokenizer(template: str | None = CHAT, **special: str) -> PreTrainedTokenizerFast:
    """Adds nothing of its own; <|end|> is its EOS."""
    names = {"eos_token": "<|end|>", "pad_token": "[PAD]"} | special
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(pocket_tokenizer()), **names)
    tokenizer.chat_template = template
    return tokenizer


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, but it puts [CLS] before every text, as Llama's puts its BOS."""
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", SPECIAL_IDS["[CLS]"])]
    )
    return tokenizer


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """[CLS] a [SEP] b [SEP], as BERT's."""
    tokenizer = Tokenizer.from_str(pocket_tokenizer())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIAL_IDS[name]) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


DISENTANGLED: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 8,
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
"""What DeBERTa v3 has and the default configuration has not."""


def tiny_backbone(model_type: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A random model of a type that transformers knows, in evaluation mode, with its own attention."""
    torch.manual_seed(seed)
    known = AutoConfig.for_model(model_type)
    names = {name: value for name, value in SMALL.items() if hasattr(known, name)}
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(model_type, **names | settings))
    # Biases and norms start at constants: random ones show what is left out.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def save_backbone(
    folder: Path, model_type: str, tokenizer: PreTrainedTokenizerFast | None = None, **settings: Any
) -> Path:
    """The folder with a tiny backbone and its tokenizer, as transformers writes them."""
    tiny_backbone(model_type, **settings).save_pretrained(folder)
    (causal_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder


def tiny_checkpoint(family: Family, seed: int = 0, max_tokens: int = 128, dropout: bool = False) -> Checkpoint:
    """An untrained reward model: a Llama or a BERT."""
    causal = family is Family.CAUSAL
    backbone = tiny_backbone("llama" if causal else "bert", seed)
    prepare(backbone)
    pooling = Pooling.LAST if causal else Pooling.MEAN
    text_format, template = pocket_text_format(family)
    formatter = Formatter(text_format, template, TextTokenizer(pocket_tokenizer()), max_tokens)
    description = Description(
        name="tiny",
        base_model="random",
        licence="Apache-2.0",
        family=family,
        pooling=pooling,
        heads=Heads(),
        max_tokens=max_tokens,
        block_queries=16,
        text_format=text_format,
        provenance=Provenance(
            data_sha256="0" * 64,
            records=1,
            seed=seed,
            commit=None,
            created="2026-01-01T00:00:00Z",
            versions={},
            configuration=TrainingConfig().portable(),
        ),
    )
    return Checkpoint(RewardModel(backbone, family, pooling, dropout=dropout).eval(), formatter, description)


def toy_records(count: int, seed: int = 0, responses: int = 2) -> list[PreferenceRecord]:
    """Preferences that a byte tells: the more `+` among the letters of a response, the better."""
    generator = random.Random(seed)

    def response(quality: int) -> str:
        letters = [*generator.choices("abcd", k=8 - quality), *("+" * quality)]
        generator.shuffle(letters)
        return "".join(letters)

    records = []
    for number in range(count):
        worth = [2 * place for place in range(responses)]
        generator.shuffle(worth)
        pairs = [(i, j) for i in range(responses) for j in range(i + 1, responses)]
        records.append(
            PreferenceRecord(
                id=f"toy-{seed}-{number}",
                prompt=f"{''.join(generator.choices('xyz', k=6))} {number}",
                responses=[response(quality) for quality in worth],
                judgements=[
                    Judgement(i=i, j=j, i_wins=int(worth[i] > worth[j]), j_wins=int(worth[i] < worth[j]))
                    for i, j in pairs
                ],
                source="toy",
            )
        )
    return records
