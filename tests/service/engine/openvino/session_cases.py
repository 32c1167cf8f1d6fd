"""OpenVINO over a bundle's graph, in every precision."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.layout import Family, plan_layout
from service.bundle.manifest import MODEL_NAME
from service.bundle.reader import read_bundle
from service.engine.providers import PROVIDERS
from service.engine.session import EngineError, OutOfMemoryError, ProviderError, Resources
from service.engine.shapes import rounded
from tests.pocket import pocket_reward, reseal

BOUND = {"fp32": 1e-5, "bf16": 0.1}
"""The most that a score of the pocket models may be off, alone or in company."""


def opened(bundle, precision="fp32"):
    return PROVIDERS["openvino"].open(bundle, precision, Resources())


@pytest.fixture(scope="module", params=BOUND)
def session(request, pocket_bundle):
    return opened(pocket_bundle, request.param)


def scores(session, sequences, family=Family.CAUSAL):
    layout = plan_layout([np.array(ids, dtype=np.int64) for ids in sequences], family, block_queries=8)
    return session.run(layout)[:, 0].tolist()


def test_it_scores(session):
    assert session.provider == "OpenVINO"
    assert set(session.placement.nodes) == {"OpenVINO"}
    sequences = [[97, 98, 99], [97, 98], [100] * 20]
    right = [pocket_reward(ids, Family.CAUSAL) for ids in sequences]
    assert scores(session, sequences) == pytest.approx(right, abs=BOUND[session.precision])


@settings(max_examples=30)
@given(sequences=st.lists(st.lists(st.integers(97, 122), min_size=1, max_size=40), min_size=1, max_size=9))
def test_company_changes_a_score_by_rounding_alone(session, sequences):
    alone = [scores(session, [ids])[0] for ids in sequences]
    assert scores(session, sequences) == pytest.approx(alone, abs=BOUND[session.precision])


def test_it_is_given_few_shapes(session):
    layout = plan_layout([np.full(37, 97), np.full(50, 98)], Family.CAUSAL, block_queries=20)
    shaped = session.shaped(layout)
    assert len(shaped.input_ids) == rounded(87) > 87
    right = [pocket_reward([97] * 37, Family.CAUSAL), pocket_reward([98] * 50, Family.CAUSAL)]
    assert session.run(layout)[:, 0].tolist() == pytest.approx(right, abs=BOUND[session.precision])


def test_an_encoder(pocket_encoder_bundle):
    sequences = [[97, 98, 99], [97, 98], [100] * 20]
    right = [pocket_reward(ids, Family.BIDIRECTIONAL) for ids in sequences]
    got = scores(opened(pocket_encoder_bundle), sequences, Family.BIDIRECTIONAL)
    assert got == pytest.approx(right, abs=1e-5)


def test_rewards_of_one_batch_outlive_the_next(session):
    layout = plan_layout([np.array([97, 98])], Family.CAUSAL, block_queries=8)
    first = session.run(layout)
    kept = first.copy()
    scores(session, [[120, 121, 122]])
    assert (first == kept).all()


def test_a_broken_graph(pocket_bundle, tmp_path):
    folder = shutil.copytree(pocket_bundle.folder, tmp_path / "broken")
    model = onnx.load(folder / MODEL_NAME)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, folder / MODEL_NAME)
    reseal(folder)
    with pytest.raises(ProviderError, match=r"OpenVINO cannot load .*model\.onnx"):
        opened(read_bundle(folder))


def test_a_graph_that_is_gone(pocket_bundle, tmp_path):
    with pytest.raises(ProviderError, match="cannot load"):
        opened(replace(pocket_bundle, folder=tmp_path))


@pytest.mark.parametrize(("message", "kind"), [("a kernel broke", EngineError), ("std::bad_alloc", OutOfMemoryError)])
def test_a_batch_that_fails(pocket_bundle, monkeypatch, message, kind):
    session = opened(pocket_bundle)

    class Failing:
        def infer(self, _):
            raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(session, "_request", Failing())
        with pytest.raises(EngineError, match=f"OpenVINO failed on a batch of 1 tokens: {message}") as raised:
            scores(session, [[97]])
    assert type(raised.value) is kind
    assert np.isfinite(scores(session, [[97]])).all()
