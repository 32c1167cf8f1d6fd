"""A model divided among the processes: weights, gradients and moments (FSDP; Zhao et al. 2023, arXiv 2304.11277)."""

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from training import processes
from training.attention import UnsupportedBackboneError
from training.layers import layers_of
from training.model import RewardModel

LEFT_AS_IT_IS: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "NO_WRAP"}}
"""What `transformers.TrainingArguments` needs for a model that `shard` has divided."""


def refuse_unsharded() -> None:
    """Refuse to divide a model where that cannot be done.

    Raises:
        ValueError: there is one process, or no GPU.
    """
    if processes.count() == 1:
        raise ValueError("optimiser.fsdp divides a model among processes, and there is one; start them with torchrun")
    if not torch.accelerator.is_available():
        raise ValueError("optimiser.fsdp needs a GPU for each process, and there is none here")


def shard(model: RewardModel, bf16: bool) -> None:
    """Divide `model` in place: a layer's weights are gathered for as long as it computes, the rest once a step.

    Args:
        model: on any device; its parameters become `DTensor`s.
        bf16: gather the layers' weights in bfloat16, as autocast would round them; gradients are summed in float32.

    Raises:
        UnsupportedBackboneError: its layers are not told apart, or its head came from a classifier of an encoder.
        ValueError: there are more processes than parts of a parameter.
    """
    if model.transform is not None:
        raise UnsupportedBackboneError(
            "optimiser.fsdp: a head with a bias cannot be divided among processes; train this encoder without it"
        )
    layers = layers_of(model.backbone)
    if not layers:
        raise UnsupportedBackboneError(
            f"optimiser.fsdp: {type(model.backbone).__name__} has no layers that could be divided one by one"
        )
    # Autocast casts what goes into each operation; inputs of a layer, the residual stream, stay in float32.
    rounded = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mp_policy=rounded if bf16 else MixedPrecisionPolicy(), shard_placement_fn=_placement)
    fully_shard(model, shard_placement_fn=_placement)


def _placement(parameter: nn.Parameter) -> Shard:
    """The first dimension of which each process gets something: accelerate takes two empty parts for one parameter."""
    count = processes.count()
    for dimension, size in enumerate(parameter.shape):
        if size >= count and (dimension == 0 or size % count == 0):
            return Shard(dimension)
    if parameter.numel() == 1:
        return Shard(0)  # the threshold of ties, which the first process keeps
    raise ValueError(
        f"optimiser.fsdp: a parameter of shape {tuple(parameter.shape)} cannot be divided among {count} processes; "
        "take as many as divide one of its dimensions"
    )


def hand_over(model: RewardModel) -> RewardModel:
    """Another model that takes the weights of `model`, which is left with their shapes until `make_room`."""
    other = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    _replace_parameters(model, "meta")
    return other


def make_room(model: RewardModel) -> None:
    """Give `model`, whose weights were handed over, room for others on the CPU."""
    _replace_parameters(model, "cpu")


def _replace_parameters(model: nn.Module, device: str) -> None:
    """New ones without values; buffers stay as they are."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = nn.Parameter(torch.empty_like(old, device=device), requires_grad=old.requires_grad)
                module._parameters[name] = made.setdefault(id(old), new)
