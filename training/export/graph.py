"""The layout forward as an ONNX graph."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from service.bundle.layout import BLOCK_GROUPS, FLAT_INPUTS, GRAPH_INPUTS, GRAPH_OUTPUT, plan_layout
from training.examples import layout_tensors
from training.model import RewardModel

OPSET = 20


class ExportError(ValueError):
    """The model cannot be written in the form that was asked for; nothing is written."""


def export_graph(model: RewardModel, path: Path, block_queries: int) -> None:
    """Write `model` to `path` with its weights in `path`.data, all seven layout inputs of free shape.

    Raises:
        ExportError: torch cannot trace or translate the model.
    """
    example = layout_tensors(plan_layout(_sample(), model.family, block_queries=block_queries))
    tokens, scores = Dim("tokens", min=1), Dim("scores", min=1)
    shapes = {name: {0: tokens} for name in FLAT_INPUTS} | {"read_index": {0: scores}}
    for group in range(BLOCK_GROUPS):
        blocks, queries, keys = (Dim(f"{name}_{group}", min=1) for name in ("blocks", "queries", "keys"))
        shapes[f"query_index_{group}"] = {0: blocks, 1: queries}
        shapes[f"key_index_{group}"] = {0: blocks, 1: keys}
        shapes[f"key_valid_{group}"] = {0: blocks, 1: keys}
    with _quiet(), _exportable_experts(model), torch.no_grad():
        try:
            program = torch.onnx.export(
                _Positional(model).eval(),
                tuple(example[name] for name in GRAPH_INPUTS),
                dynamo=True,
                dynamic_shapes=(tuple(shapes[name] for name in GRAPH_INPUTS),),
                input_names=list(GRAPH_INPUTS),
                output_names=[GRAPH_OUTPUT],
                opset_version=OPSET,
                optimize=True,
            )
        except Exception as error:  # torch raises many kinds, and pages of advice on itself
            cause = error.__cause__ or error
            raise ExportError(
                f"{type(model.backbone).__name__} cannot be written as an ONNX graph: {str(cause)[:400]}"
            ) from error
        assert program is not None  # only without dynamo is nothing returned
        program.save(str(path), external_data=True)


class _Positional(nn.Module):
    """The model with its inputs in the order of `GRAPH_INPUTS`: torch.export cannot give keywords free shapes."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """The arrays of a layout -> (N, heads) float32."""
        rewards: torch.Tensor = self.model(**dict(zip(GRAPH_INPUTS, arrays, strict=True)))
        return rewards


def _sample() -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Sequences to trace with: no dimension of size 0 or 1, which torch.export would take for fixed."""
    return [np.arange(1, 1 + length, dtype=np.int64) % 7 for length in (150, 90, 70)]


@contextlib.contextmanager
def _exportable_experts(model: RewardModel) -> Iterator[None]:
    """Mixtures of experts gather the weights of each token's experts: grouping tokens has no operator in ONNX."""
    config = model.backbone.config
    if not model.backbone._can_set_experts_implementation():
        yield
        return
    usual = config._experts_implementation
    model.backbone.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.backbone.set_experts_implementation(usual)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own progress and on operators of libraries that are not used."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
