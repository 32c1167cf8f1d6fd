"""The ONNX Runtime session: on the provider that was asked for, or not at all."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.bundle.layout import Family, plan_layout
from service.bundle.manifest import MODEL_NAME
from service.bundle.reader import BundleError, read_bundle
from service.engine.session import EngineError, OnnxSession, ProviderError
from tests.pocket import pocket_reward, reseal


def layout_of(*sequences, family=Family.CAUSAL):
    return plan_layout([np.array(ids, dtype=np.int64) for ids in sequences], family, block_queries=8)


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_it_scores(pocket_bundle, provider):
    session = OnnxSession(pocket_bundle, provider, 1)
    assert session.provider == "CPUExecutionProvider"
    sequences = [[97, 98, 99], [97, 98], [100] * 20]
    rewards = session.run(layout_of(*sequences))
    assert rewards.shape == (3, 1)
    assert rewards.dtype == np.float32
    right = [pocket_reward(ids, Family.CAUSAL) for ids in sequences]
    assert rewards[:, 0].tolist() == pytest.approx(right, abs=1e-5)


def test_a_provider_that_is_not_built_in(pocket_bundle):
    with pytest.raises(ProviderError, match=r"CUDAExecutionProvider is not in this build .*CPUExecutionProvider"):
        OnnxSession(pocket_bundle, "cuda", 1)


def test_a_provider_that_the_runtime_falls_back_from(pocket_bundle, monkeypatch):
    """A build with CUDA on a machine whose driver is missing: the runtime only warns, and serves on the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    load = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, providers: load(path, options, ["CPUExecutionProvider"])
    )
    for provider in "cuda", "auto":
        with pytest.raises(ProviderError, match="asked for CUDAExecutionProvider, but ONNX Runtime runs CPU"):
            OnnxSession(pocket_bundle, provider, 1)


def test_a_broken_graph(pocket_bundle, tmp_path):
    folder = shutil.copytree(pocket_bundle.folder, tmp_path / "broken")
    model = onnx.load(folder / MODEL_NAME)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, folder / MODEL_NAME)
    reseal(folder)
    with pytest.raises(BundleError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        OnnxSession(read_bundle(folder), "cpu", 1)


def test_a_graph_that_is_gone(pocket_bundle, tmp_path):
    with pytest.raises(BundleError, match="cannot load it"):
        OnnxSession(replace(pocket_bundle, folder=tmp_path), "cpu", 1)


def test_a_batch_that_fails(pocket_bundle):
    session = OnnxSession(pocket_bundle, "cpu", 1)
    layout = layout_of([97, 98])
    broken = replace(layout, input_ids=np.array([10**6, 10**6]))
    with pytest.raises(EngineError, match="failed on a batch of 2 tokens"):
        session.run(broken)
    assert np.isfinite(session.run(layout)).all()
