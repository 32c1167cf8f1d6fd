"""Leave the lower part of a backbone as it was pretrained: less to compute, and less to unlearn from little data."""

import re

from training.attention import UnsupportedBackboneError
from training.layers import layers_of
from training.model import RewardModel

_LAST = re.compile(r"(^|\.)(norm|ln_f|final_norm|final_layer_norm|final_layernorm|project_out|norm_f)\.")


def freeze(model: RewardModel, layers: int) -> None:
    """Freeze the embeddings and the first `layers` layers of the backbone, in place.

    Raises:
        ValueError: it has fewer layers.
        UnsupportedBackboneError: its layers are not told apart, or share their weights.
    """
    backbone = model.backbone
    stack = layers_of(backbone)
    if len(stack) < (2 if layers else 1):
        raise UnsupportedBackboneError(
            f"model.frozen_layers: {type(backbone).__name__} has no layers that could be frozen one by one"
        )
    if layers > len(stack):
        raise ValueError(f"model.frozen_layers is {layers}, and the backbone has {len(stack)} layers")
    for layer in stack[:layers]:
        layer.requires_grad_(False)
    inside = {id(parameter) for layer in stack for parameter in layer.parameters()}
    for name, parameter in backbone.named_parameters():
        if id(parameter) not in inside and not _is_last(name):
            parameter.requires_grad_(False)


def _is_last(name: str) -> bool:
    """Whether a parameter outside of the layers comes after them: a final norm or projection, by its name.

    Of the embeddings, tables, norms and projections alike, nothing is.
    """
    return "embed" not in name and _LAST.search(name) is not None
