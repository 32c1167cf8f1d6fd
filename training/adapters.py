"""Low-rank adapters on the backbone (LoRA, Hu et al. 2021): few weights to train, none left when they are merged."""

import importlib.util
from typing import Any

from training.model import RewardModel


def add_adapters(model: RewardModel, rank: int, alpha: int) -> None:
    """Freeze the backbone and put adapters on all its linear layers, in place; the head goes on learning whole.

    Args:
        model: not yet trained; an adapter begins as zero, so that its scores stay as they are.
        rank: of the adapters.
        alpha: their product counts alpha / rank.

    Raises:
        ImportError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ImportError("model.lora_rank needs peft; pip install 'assay[feedback]'")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
    adapted: Any = get_peft_model(model.backbone, config)
    model.backbone = adapted


def merge_adapters(model: RewardModel) -> None:
    """Add the adapters to the weights they stand beside, in place; the scores stay as they are within rounding."""
    adapted: Any = model.backbone
    model.backbone = adapted.merge_and_unload()
