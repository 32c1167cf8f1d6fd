"""Leave the lower part of a backbone as it was pretrained: less to compute, and less to unlearn from little data."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from training.attention import UnsupportedBackboneError
from training.model import RewardModel, token_table


def freeze(model: RewardModel, layers: int) -> None:
    """Freeze the embeddings and the first `layers` layers of the backbone, in place.

    Raises:
        ValueError: it has fewer layers.
        UnsupportedBackboneError: its layers are not told apart, or share their weights.
    """
    stack = [layer for layer in model.backbone.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if len(stack) < 2:
        raise UnsupportedBackboneError(
            f"model.frozen_layers: {type(model.backbone).__name__} has no layers that could be frozen one by one"
        )
    if layers > len(stack):
        raise ValueError(f"model.frozen_layers is {layers}, and the backbone has {len(stack)} layers")
    for part in (_embeddings(model), *stack[:layers]):
        part.requires_grad_(False)


def _embeddings(model: RewardModel) -> nn.Module:
    """The module of tables and norm before the first layer, where there is one, else all tables."""
    table = token_table(model.backbone)
    for module in model.backbone.children():
        if not isinstance(module, nn.ModuleList) and any(part is table for part in module.modules()):
            inside = any(isinstance(part, GradientCheckpointingLayer) for part in module.modules())
            return module if not inside else _tables(module)
    return _tables(model.backbone)


def _tables(module: nn.Module) -> nn.Module:
    return nn.ModuleList([part for part in module.modules() if isinstance(part, nn.Embedding)])
