"""The model that a training begins with."""

import datetime
import importlib.metadata
import subprocess
from pathlib import Path

import torch
from transformers import set_seed

from service.bundle.layout import Family, Pooling
from service.bundle.manifest import Provenance
from service.bundle.text_format import Formatter
from training.adapters import add_adapters
from training.checkpoint import Checkpoint, Description
from training.config import TrainingConfig
from training.earlier_run import load_start
from training.freezing import freeze
from training.model import RewardModel
from training.prepare import PreparedData
from training.pretrained_head import check_scores

MOST_TOKENS_BY_DEFAULT = 1024
_LIBRARIES = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime", "numpy")


def new_checkpoint(config: TrainingConfig, data: PreparedData) -> Checkpoint:
    """An untrained reward model on the configured backbone; the seed is set before the head is drawn."""
    pretrained = config.model.head == "pretrained"
    backbone = load_start(config.model.backbone, with_head=pretrained)
    family = backbone.family
    of_family = Pooling.LAST if family is Family.CAUSAL else Pooling.MEAN
    pooling = Pooling(config.model.pooling or backbone.pooling or of_family)
    if pretrained and pooling is not backbone.pooling:
        raise ValueError(
            f"model.pooling is {pooling}, and the pretrained head reads at {backbone.pooling}; leave it out"
        )
    max_tokens = config.model.max_tokens or min(backbone.max_positions, MOST_TOKENS_BY_DEFAULT)
    if max_tokens > backbone.max_positions:
        raise ValueError(
            f"model.max_tokens is {max_tokens}, but the backbone takes {backbone.max_positions} tokens at most"
        )
    set_seed(config.optimiser.seed)
    transform = None if backbone.head is None else backbone.head.transform
    description = Description(
        name=config.name,
        base_model=backbone.source.name,
        licence=config.licence or backbone.source.licence,
        family=family,
        pooling=pooling,
        heads=config.model.heads,
        transform=transform,
        max_tokens=max_tokens,
        block_queries=config.model.block_queries,
        text_format=backbone.text_format,
        provenance=Provenance(
            data_sha256=data.sha256,
            records=data.records,
            seed=config.optimiser.seed,
            commit=_commit(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
            configuration=config.portable(),
            began_with=backbone.provenance,
        ),
    )
    formatter = Formatter(backbone.text_format, backbone.template, backbone.tokenizer, max_tokens)
    model = RewardModel(
        backbone.model, family, pooling, config.model.heads, transform=transform, dropout=config.model.dropout
    )
    if backbone.head is not None:
        model.on_top.load_state_dict(backbone.head.weights)
        if backbone.head.scored:
            check_scores(model, formatter, backbone.head.scored, config.model.block_queries)
    if config.model.attention == "flex":
        model.use_flexible_attention()
        if not torch.cuda.is_available():
            raise ValueError("model.attention is flex, whose gradients need a CUDA device, and there is none here")
    if config.model.gradient_checkpointing:
        model.checkpoint_gradients()
    if config.model.frozen_layers is not None:
        freeze(model, config.model.frozen_layers)
    if config.model.lora_rank:
        add_adapters(model, config.model.lora_rank, config.model.lora_alpha)
    return Checkpoint(model, formatter, description)


def _commit() -> str | None:
    """Version-control commit of the code that trains, and whether it was changed since, where it is under control."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # Installed code may lie inside the repository of something else.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
