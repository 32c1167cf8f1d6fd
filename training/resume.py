"""Proof, before the loop goes on, that every part of a checkpoint is there and can be loaded.

The loop itself goes on without a part that is missing, from other moments, rates or random numbers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import nn
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from training import processes
from training.checkpoint_error import CheckpointError
from training.error_text import first_line
from training.run_folder import CHECKPOINTS, STATE, whole_checkpoints

WEIGHTS, OPTIMISER, SCHEDULE = "model.safetensors", "optimizer.pt", "scheduler.pt"
SHARDED_WEIGHTS, SHARDED_OPTIMISER = "pytorch_model_fsdp.bin", "optimizer.bin"
"""What a sharded model resumes from; `WEIGHTS` are there too."""

_REMEDY = "remove this checkpoint to resume from an earlier one"


def newest_checkpoint(run: Path) -> Path:
    """The checkpoint that a run resumes from: the last one that was written to the end.

    Raises:
        FileNotFoundError: there is none.
    """
    whole = whole_checkpoints(run)
    if not whole:
        raise FileNotFoundError(
            f"{run / CHECKPOINTS}: no checkpoint to resume from; begin anew with --overwrite instead of --resume"
        )
    return whole[-1]


def read_state(checkpoint: Path) -> TrainerState:
    """Where the loop was.

    Raises:
        CheckpointError: the file is missing, or does not say it.
    """
    path = checkpoint / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"an object is needed, not {type(content).__name__}")
        for name in ("global_step", "max_steps", "best_global_step"):
            if type(content.get(name)) is not int or content[name] <= 0:
                raise ValueError(f"{name} is {content.get(name)!r}; a number above 0 is needed")
        if not isinstance(content.get("best_metric"), float):
            raise ValueError(f"best_metric is {content.get('best_metric')!r}; a number is needed")
        for name, form in (("log_history", list), ("stateful_callbacks", dict)):
            if not isinstance(content.get(name), form):
                raise ValueError(f"{name} is missing or of another form")
        return TrainerState(**content)
    except Exception as error:  # whatever a wrong value leads to
        raise _unreadable(path, error) from error


def check_whole(checkpoint: Path, model: nn.Module, optimiser: torch.optim.Optimizer, sharded: bool = False) -> None:
    """Load every part of the checkpoint once, as the loop will; model and optimiser keep what they are given.

    Args:
        checkpoint: its folder.
        model, optimiser: whole, also where they will be `sharded`.
        sharded: whether FSDP goes on with it.

    Raises:
        CheckpointError: a part is missing, cannot be read, or belongs to another model.
    """
    saved_by = len(list(checkpoint.glob("rng_state*.pth")))
    if saved_by not in (0, processes.count()):
        raise CheckpointError(f"{checkpoint}: {saved_by} processes trained it, and {processes.count()} cannot go on")
    _weights(checkpoint / WEIGHTS, model, _REMEDY)
    if sharded:
        _part(checkpoint / SHARDED_WEIGHTS, _sharded_weights, model)
        _part(checkpoint / SHARDED_OPTIMISER, _sharded_optimiser, model)
    else:
        _part(checkpoint / OPTIMISER, _optimiser, optimiser)
    _part(checkpoint / SCHEDULE, _schedule)
    _part(checkpoint / random_state(), _random)


def random_state() -> str:
    """The file of this process's random numbers, as the loop names it."""
    return f"rng_state_{processes.rank()}.pth" if processes.count() > 1 else "rng_state.pth"


def load_best(folder: Path, model: nn.Module) -> None:
    """Put the weights of least validation loss into `model`.

    Raises:
        CheckpointError: they are missing or cannot be read.
    """
    _weights(folder / WEIGHTS, model, "these are the weights of least validation loss; begin anew with --overwrite")


def _weights(path: Path, model: nn.Module, remedy: str) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; {remedy}")
    try:
        load_model(model, path)  # refuses tensors that are missing or of another shape, as the loop does not
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); {remedy}") from error


def _part(path: Path, check: Any, *arguments: Any) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; {_REMEDY}")
    try:
        with safe_globals():  # type: ignore[no-untyped-call]
            content = torch.load(path, map_location="cpu", weights_only=True)
        check(content, *arguments)
    except Exception as error:  # torch raises many kinds, and pages of advice on itself
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = "no such file" if isinstance(error, FileNotFoundError) else first_line(error)
    return CheckpointError(f"{path}: cannot be read ({reason}); {_REMEDY}")


def _optimiser(content: Any, optimiser: torch.optim.Optimizer) -> None:
    if not content["state"]:
        raise ValueError("it has no moments")
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for place, moments in content["state"].items():
        for name, tensor in moments.items():
            if tensor.ndim and tensor.shape != parameters[place].shape:
                raise ValueError(f"{name} of parameter {place} has another shape than the parameter")
    optimiser.load_state_dict(content)


def _sharded_weights(content: Any, model: nn.Module) -> None:
    _same_shapes({name: tensor.shape for name, tensor in content.items()}, model.state_dict())


def _sharded_optimiser(content: Any, model: nn.Module) -> None:
    """Its moments are by name of the parameter."""
    parameters = dict(model.named_parameters())
    if not content["state"]:
        raise ValueError("it has no moments")
    for name, moments in content["state"].items():
        _same_shapes({name: moments["exp_avg"].shape}, {name: parameters[name]})


def _same_shapes(shapes: Mapping[str, torch.Size], wanted: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in wanted.items():
        if shapes.get(name) != tensor.shape:
            raise ValueError(f"{name} is missing or has another shape than the parameter")


def _schedule(content: Any) -> None:
    if not isinstance(content["last_epoch"], int) or not content["base_lrs"]:
        raise ValueError("it is no schedule of learning rates")


def _random(content: Any) -> None:
    version, inner, _ = content["python"]
    if version != 3 or len(inner) != 625 or content["numpy"][0] != "MT19937":
        raise ValueError("it holds no random state")
    torch.Generator().set_state(content["cpu"])
