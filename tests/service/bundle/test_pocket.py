"""The pocket bundle earns its keep: its graph scores what its reference says, and notices a wrong layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import GRAPH_INPUTS, Family, Layout, plan_layout
from service.bundle.reader import Bundle
from tests.pocket import (
    INFINITE_TEXT,
    NAN_TEXT,
    VOCABULARY_SIZE,
    pocket_formatter,
    pocket_graph,
    pocket_reward,
    write_pocket_bundle,
)

SESSIONS = {
    family: onnxruntime.InferenceSession(pocket_graph(family).SerializeToString(), providers=["CPUExecutionProvider"])
    for family in Family
}
IDS = st.integers(2, VOCABULARY_SIZE - 1)  # 0 and 1 are those of NAN_TEXT and INFINITE_TEXT
BATCHES = st.lists(st.lists(st.one_of(st.integers(97, 98), IDS), min_size=1, max_size=12), min_size=1, max_size=6)
EXAMPLE = [[97, 98, 99, 100, 101], [97, 98, 99, 102], [97, 103], [104]]


def run(family: Family, layout: Layout) -> list[float]:
    return run_arrays(family, layout.arrays())


def run_arrays(family: Family, arrays: Mapping[str, npt.NDArray[Any]]) -> list[float]:
    (rewards,) = SESSIONS[family].run(None, dict(arrays))
    assert rewards.dtype == np.float32
    assert rewards.shape == (len(arrays["read_index"]), 1)
    return list(map(float, rewards[:, 0]))


def plan(batch: list[list[int]], family: Family, queries: int = 2, share_prefixes: bool = True) -> Layout:
    sequences = [np.array(ids, dtype=np.int64) for ids in batch]
    return plan_layout(sequences, family, block_queries=queries, share_prefixes=share_prefixes)


@given(BATCHES, st.integers(1, 5), st.sampled_from(Family), st.booleans())
def test_graph_and_reference_agree_in_any_company(
    batch: list[list[int]], queries: int, family: Family, share_prefixes: bool
) -> None:
    scores = run(family, plan(batch, family, queries, share_prefixes))
    assert scores == pytest.approx([pocket_reward(ids, family) for ids in batch], abs=2e-6)


@given(st.lists(IDS, min_size=2, max_size=12), st.sampled_from(Family), st.data())
def test_a_reward_depends_on_every_token_and_on_its_place(ids: list[int], family: Family, data: st.DataObject) -> None:
    a, b = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=2, max_size=2, unique=True))
    changed, swapped = list(ids), list(ids)
    changed[a] = data.draw(IDS)
    swapped[a], swapped[b] = ids[b], ids[a]
    assert (pocket_reward(changed, family) == pocket_reward(ids, family)) == (changed == ids)
    assert (pocket_reward(swapped, family) == pocket_reward(ids, family)) == (swapped == ids)


@pytest.mark.parametrize(("family", "other"), [tuple(Family), tuple(Family)[::-1]])
def test_families_differ(family: Family, other: Family) -> None:
    assert pocket_reward([97], family) != pytest.approx(pocket_reward([97], other), abs=1e-3)


@pytest.mark.parametrize("name", GRAPH_INPUTS)
def test_the_graph_notices_a_wrong_array(name: str) -> None:
    layout = plan(EXAMPLE, Family.CAUSAL)
    arrays = dict(layout.arrays())
    array = arrays[name]
    arrays[name] = ~array if array.dtype == np.bool_ else np.roll(array, 1)
    assert run_arrays(Family.CAUSAL, arrays) != pytest.approx(run(Family.CAUSAL, layout), abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("family", Family)
def test_only_the_item_that_holds_it_scores_nan_or_infinity(family: Family) -> None:
    responses = ["fine", f"no{NAN_TEXT}", f"{INFINITE_TEXT}", "fine too"]
    items = pocket_formatter(family).encode("prompt", responses)
    scores = run(family, plan([item.ids.tolist() for item in items if not isinstance(item, Exception)], family))
    assert list(map(np.isfinite, scores)) == [True, False, False, True]
    assert np.isnan(scores[1])
    assert scores[2] == np.inf


def test_the_fixtures(pocket_bundle: Bundle, pocket_encoder_bundle: Bundle) -> None:
    for bundle, family in ((pocket_bundle, Family.CAUSAL), (pocket_encoder_bundle, Family.BIDIRECTIONAL)):
        assert (bundle.manifest.family, bundle.manifest.max_tokens) == (family, 64)
        onnx.checker.check_model(bundle.model_path, full_check=True)


def test_weights_outside_the_graph_give_the_same_scores(tmp_path: Path) -> None:
    bundle = write_pocket_bundle(tmp_path / "bundle", external_data=True)
    session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
    layout = plan(EXAMPLE, Family.CAUSAL)
    (rewards,) = session.run(None, dict(layout.arrays()))
    assert rewards[:, 0].tolist() == run(Family.CAUSAL, layout)
