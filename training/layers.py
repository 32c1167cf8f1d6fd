"""The layers of a backbone, which are frozen and divided one by one."""

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mpnet.modeling_mpnet import MPNetLayer

KINDS = (GradientCheckpointingLayer, MPNetLayer)
"""transformers marks the layers whose activations can be computed again; MPNet's cannot be."""


def layers_of(backbone: PreTrainedModel) -> list[nn.Module]:
    """In order, from the embeddings on; none where they are not told apart."""
    return [layer for layer in backbone.modules() if isinstance(layer, KINDS)]
