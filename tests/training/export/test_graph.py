"""Graphs of other architectures than those of the bundles, and what happens where there is none."""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from service.bundle.layout import Family, Pooling, plan_layout
from service.engine.half import half_precision
from service.engine.onnx_session import CPU, open_graph
from service.engine.shapes import in_few_shapes
from tests.training.tiny import DISENTANGLED, tiny_backbone, tiny_checkpoint
from training.backbone import prepare
from training.examples import layout_tensors
from training.export.graph import ExportError, export_graph
from training.export.parity import measure_parity, parity_cases
from training.model import RewardModel

ARCHITECTURES: dict[str, tuple[Pooling, dict[str, Any]]] = {
    "mixtral": (Pooling.LAST, {"sliding_window": 7}),
    "gemma3_text": (Pooling.LAST, {"head_dim": 8, "sliding_window": 7}),
    "modernbert": (Pooling.FIRST, {"local_attention": 8}),
    "roberta": (Pooling.MEAN, {"pad_token_id": 1}),
    "mpnet": (Pooling.MEAN, {}),
    "deberta-v2": (Pooling.FIRST, DISENTANGLED),
}


@pytest.mark.parametrize(
    "model_type", ["mixtral", *(pytest.param(name, marks=pytest.mark.slow) for name in [*ARCHITECTURES][1:])]
)
def test_graph_equals_module(tmp_path: Path, model_type: str) -> None:
    pooling, settings = ARCHITECTURES[model_type]
    backbone = tiny_backbone(model_type, **settings)
    prepare(backbone)
    family = Family.CAUSAL if pooling is Pooling.LAST else Family.BIDIRECTIONAL
    model = RewardModel(backbone, family, pooling).eval()
    experts = backbone.config._experts_implementation
    export_graph(model, tmp_path / "model.onnx", 16)
    assert backbone.config._experts_implementation == experts
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    cases = parity_cases(300, 200, seed=0, block_queries=16)
    parity = measure_parity(model, lambda arrays: session.run(None, dict(arrays))[0], cases, 16, "fp32")
    assert parity.failure is None
    assert parity.max_error < 1e-5


@pytest.mark.parametrize(
    "model_type", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES)]
)
def test_in_half_precision_the_graph_scores_alike(tmp_path: Path, model_type: str) -> None:
    """What the exporter writes is what the conversion for GPUs knows: linear layers, and attention over both groups."""
    pooling, settings = ARCHITECTURES.get(model_type, (Pooling.LAST, {}))
    backbone = tiny_backbone(model_type, **settings)
    prepare(backbone)
    model = RewardModel(backbone, Family.CAUSAL if pooling is Pooling.LAST else Family.BIDIRECTIONAL, pooling).eval()
    export_graph(model, tmp_path / "model.onnx", 16)
    session = open_graph(tmp_path / "model.onnx", "fp16", onnxruntime.SessionOptions(), CPU, {})
    graph = onnx.load_from_string(half_precision(tmp_path / "model.onnx", "fp16")[0]).graph
    in_half = [node for node in graph.node if node.output[0].endswith(".fp16.product")]
    weights = {tensor.name for tensor in graph.initializer}
    attention = [node for node in in_half if not weights & set(node.input)]
    # Two products in each of two groups of blocks; those of experts take weights that a router chose, and DeBERTa's
    # queries and keys have one each with distances.
    assert len(attention) == (6 if model_type in ("mixtral", "deberta-v2") else 4) * backbone.config.num_hidden_layers
    assert len(in_half) - len(attention) >= 2 * backbone.config.num_hidden_layers  # some are narrow in a tiny model
    cases = parity_cases(300, 200, seed=0, block_queries=16)
    parity = measure_parity(model, lambda arrays: session.run(None, dict(arrays))[0], cases, 16, "fp32")
    assert 0 < parity.max_error < 0.02


@pytest.mark.parametrize(
    ("model_type", "pooling"),
    [("llama", Pooling.LAST), ("bert", Pooling.MEAN), ("bert", Pooling.FIRST), ("mpnet", Pooling.MEAN)],
)
def test_batches_in_few_shapes_score_alike(model_type: str, pooling: Pooling) -> None:
    """As they are served on OpenVINO and on GPUs: whatever pools, nothing that was added to a batch is read."""
    backbone = tiny_backbone(model_type)
    prepare(backbone)
    model = RewardModel(backbone, Family.CAUSAL if pooling is Pooling.LAST else Family.BIDIRECTIONAL, pooling).eval()
    torch.nn.init.normal_(model.head.weight)
    for name, sequences in parity_cases(300, 200, seed=0, block_queries=20).items():
        layout = plan_layout(sequences, model.family, block_queries=20)
        shaped = in_few_shapes(layout)
        with torch.inference_mode():
            right, scores = (model(**layout_tensors(one)) for one in (layout, shaped))
        assert torch.allclose(scores, right, atol=1e-5), name
    assert shaped.filler


def test_what_cannot_be_exported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_checkpoint(Family.CAUSAL).model

    def no_such_operator(hidden: torch.Tensor, *_: Any) -> torch.Tensor:
        return hidden + torch.linalg.svdvals(hidden).sum()

    monkeypatch.setattr(model, "_pool", no_such_operator)
    with pytest.raises(ExportError, match="LlamaModel cannot be written as an ONNX graph"):
        export_graph(model, tmp_path / "model.onnx", 16)
    assert list(tmp_path.iterdir()) == []
