"""The ONNX Runtime session: on the provider that was asked for, or not at all."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.bundle.layout import Family, plan_layout
from service.bundle.manifest import MODEL_NAME
from service.bundle.reader import BundleError, read_bundle
from service.engine.onnx_session import read_placement
from service.engine.providers import PROVIDERS
from service.engine.session import EngineError, OutOfMemoryError, ProviderError, Resources
from service.engine.shapes import rounded
from tests.pocket import pocket_reward, reseal


def layout_of(*sequences, family=Family.CAUSAL):
    return plan_layout([np.array(ids, dtype=np.int64) for ids in sequences], family, block_queries=8)


def test_it_scores(pocket_bundle):
    session = PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources())
    assert (session.provider, session.precision) == ("CPUExecutionProvider", "fp32")
    assert set(session.placement.nodes) == {"CPUExecutionProvider"}
    sequences = [[97, 98, 99], [97, 98], [100] * 20]
    rewards = session.run(layout_of(*sequences))
    assert rewards.shape == (3, 1)
    assert rewards.dtype == np.float32
    right = [pocket_reward(ids, Family.CAUSAL) for ids in sequences]
    assert rewards[:, 0].tolist() == pytest.approx(right, abs=1e-5)


def test_only_a_gpu_gets_few_shapes(pocket_bundle):
    session = PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources())
    layout = layout_of([97] * 37, [98] * 50)
    assert session.shaped(layout) is layout
    session.provider = "CUDAExecutionProvider"
    assert len(session.shaped(layout).input_ids) == rounded(87) > 87
    assert session.run(layout) == pytest.approx(PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources()).run(layout))


def test_nothing_of_the_placement_check_stays_on_disk(pocket_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources())
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_the_runtime_falls_back_from(pocket_bundle, monkeypatch):
    """A build with CUDA on a machine whose driver is missing: the runtime only warns, and serves on the CPU."""
    load = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, providers: load(path, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(ProviderError, match="asked for CUDAExecutionProvider, but ONNX Runtime runs CPU"):
        PROVIDERS["cuda"].open(pocket_bundle, "fp32", Resources())


def test_a_graph_that_is_left_to_another_provider(tmp_path):
    event = {"cat": "Node", "args": {"op_name": "MatMul", "provider": "CPUExecutionProvider"}}
    shape = {"cat": "Node", "args": {"op_name": "Shape", "provider": "CPUExecutionProvider"}}
    ours = {"cat": "Node", "args": {"op_name": "MatMul", "provider": "CUDAExecutionProvider"}}
    (tmp_path / "profile.json").write_text(json.dumps([event, event, shape, ours, {"cat": "Session"}]))
    placement = read_placement(tmp_path / "profile.json", "CUDAExecutionProvider")
    assert placement.nodes == {"CPUExecutionProvider": 3, "CUDAExecutionProvider": 1}
    assert placement.heavy_elsewhere == {"MatMul": 2}


def test_a_broken_graph(pocket_bundle, tmp_path):
    folder = shutil.copytree(pocket_bundle.folder, tmp_path / "broken")
    model = onnx.load(folder / MODEL_NAME)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, folder / MODEL_NAME)
    reseal(folder)
    with pytest.raises(BundleError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        PROVIDERS["cpu"].open(read_bundle(folder), "fp32", Resources())


def test_a_graph_that_is_gone(pocket_bundle, tmp_path):
    with pytest.raises(BundleError, match="cannot load it"):
        PROVIDERS["cpu"].open(replace(pocket_bundle, folder=tmp_path), "fp32", Resources())


def test_a_batch_that_fails(pocket_bundle):
    session = PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources())
    layout = layout_of([97, 98])
    broken = replace(layout, input_ids=np.array([10**6, 10**6]))
    with pytest.raises(EngineError, match="failed on a batch of 2 tokens"):
        session.run(broken)
    assert np.isfinite(session.run(layout)).all()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("bfc_arena: Failed to allocate memory for requested buffer of size 1073741824", OutOfMemoryError),
        ("CUDA failure 2: out of memory", OutOfMemoryError),
        ("bfc_arena: Available memory of 1024 is smaller than requested bytes of 4096", OutOfMemoryError),
        ("std::bad_alloc", OutOfMemoryError),
        ("Non-zero status code returned while running MatMul", EngineError),
    ],
)
def test_a_lack_of_memory_is_told_apart(pocket_bundle, monkeypatch, message, kind):
    session = PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources())

    class Failing:
        def run(self, *_):
            raise RuntimeError(message)

    monkeypatch.setattr(session, "_session", Failing())
    with pytest.raises(EngineError) as raised:
        session.run(layout_of([97, 98]))
    assert type(raised.value) is kind
