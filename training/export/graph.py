"""The layout forward as an ONNX graph."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim

from service.bundle.layout import GRAPH_OUTPUT, plan_layout
from training.examples import layout_tensors
from training.model import RewardModel

OPSET = 20


def export_graph(model: RewardModel, path: Path, block_queries: int) -> None:
    """Write `model` to `path` with its weights in `path`.data, all seven layout inputs of free shape.

    Raises:
        RuntimeError: torch cannot trace or translate the model.
    """
    size = Dim("tokens", min=1), Dim("blocks", min=1), Dim("queries", min=1), Dim("keys", min=1), Dim("scores", min=1)
    tokens, blocks, queries, keys, scores = size
    shapes = {
        "input_ids": {0: tokens},
        "position_ids": {0: tokens},
        "query_index": {0: blocks, 1: queries},
        "key_index": {0: blocks, 1: keys},
        "key_valid": {0: blocks, 1: keys},
        "unblock_index": {0: tokens},
        "read_index": {0: scores},
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model.eval(),
            (),
            kwargs=layout_tensors(plan_layout(_sample(), model.family, block_queries=block_queries)),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(shapes),
            output_names=[GRAPH_OUTPUT],
            opset_version=OPSET,
            optimize=True,
        )
        program.save(str(path), external_data=True)


def _sample() -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Sequences to trace with: no dimension of size 0 or 1, which torch.export would take for fixed."""
    return [np.arange(1, 1 + length, dtype=np.int64) % 7 for length in (150, 90, 70)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own progress and on operators of libraries that are not used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
