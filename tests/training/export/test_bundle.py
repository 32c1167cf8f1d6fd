"""Export: the graph gives the module's scores through ONNX Runtime, or there is no bundle."""

import contextlib
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from service.bundle.calibration import Calibration
from service.bundle.layout import Family, plan_layout
from service.bundle.reader import Bundle, BundleError, read_bundle
from service.bundle.text_format import EncodedItem
from tests.training.tiny import tiny_checkpoint, toy_records
from training.checkpoint import Checkpoint
from training.encoding import encode_records
from training.evaluation.evaluate import Evaluation, calibrate, evaluate
from training.examples import layout_tensors
from training.export import bundle as export
from training.export.bundle import export_bundle
from training.export.graph import ExportError
from training.export.parity import ParityError
from training.inspection import describe
from training.model import RewardModel
from training.scoring import score_examples


def report(checkpoint: Checkpoint) -> tuple[Calibration, Evaluation]:
    examples = encode_records(toy_records(12, responses=3), checkpoint.formatter, progress=False)
    scores = score_examples(checkpoint.model, examples, 16)
    return calibrate(examples, scores), evaluate(examples, scores, temperature=1.0)


@pytest.fixture(scope="module", params=list(Family))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Bundle]:
    checkpoint = tiny_checkpoint(request.param)
    folder = tmp_path_factory.mktemp("bundles") / "nested" / "tiny"
    return checkpoint, export_bundle(checkpoint, *report(checkpoint), folder)


def test_the_bundle_can_be_read_and_says_what_it_is(exported: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = exported
    again = read_bundle(bundle.folder)
    assert again.digest == bundle.digest
    manifest = again.manifest
    assert manifest.family is checkpoint.description.family
    assert manifest.text_format_sha256 == checkpoint.formatter.sha256
    assert manifest.block_queries == checkpoint.description.block_queries
    assert sorted(manifest.files) == [
        "chat_template.jinja",
        "model.onnx",
        "model.onnx.data",
        "parity.json",
        "report/evaluation.json",
        "report/summary.md",
        "tokenizer.json",
    ]
    assert sorted(path.name for path in bundle.folder.parent.iterdir()) == ["tiny"]
    assert stat.S_IMODE(bundle.folder.stat().st_mode) & 0o055 == 0o055  # others may serve it
    assert bundle.digest in describe(again)


def test_parity_json_holds_the_figures_of_the_gate(exported: tuple[Checkpoint, Bundle]) -> None:
    parity = json.loads((exported[1].folder / "parity.json").read_text())
    assert parity["cases"] == len(parity["by_case"]) >= 12
    assert {"one token", "full length", "many short items", "deep tree", "wide tree"} <= parity["by_case"].keys()
    assert parity["scores"] > 100
    assert parity["pairs"] > 500
    assert parity["flips"] == 0
    assert max(parity["max_error"], parity["max_company_error"]) <= parity["tolerance"] == 1e-4
    assert parity["spearman"] > 0.9999


def test_onnxruntime_gives_the_module_s_scores_whatever_the_batch(exported: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = exported
    session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
    items = [
        item.ids
        for record in toy_records(7, seed=9, responses=4)
        for item in bundle.formatter.encode(record.prompt, record.responses)
        if isinstance(item, EncodedItem)
    ]
    for chosen in (items[:1], items[:5], items[::-1], [*items, items[3][:1], items[3][:2]]):
        layout = plan_layout(chosen, checkpoint.model.family, block_queries=16)
        graph = session.run(None, layout.arrays())[0]
        with torch.no_grad():
            module = checkpoint.model(**layout_tensors(layout)).numpy()
            alone = [
                checkpoint.model(**layout_tensors(plan_layout([item], checkpoint.model.family, block_queries=16)))
                for item in chosen
            ]
        np.testing.assert_allclose(graph, module, rtol=0, atol=1e-5)
        np.testing.assert_allclose(graph, torch.cat(alone).numpy(), rtol=0, atol=1e-5)


@contextlib.contextmanager
def stale_graph(exported: tuple[Checkpoint, Bundle], factor: float) -> Iterator[Checkpoint]:
    """Export hands out the graph of the fixture, while the head of the module is `factor` times what it was."""
    checkpoint, bundle = exported

    def copied(model: Any, path: Path, block_queries: int) -> None:
        for name in ("model.onnx", "model.onnx.data"):
            shutil.copy(bundle.folder / name, path.with_name(name))

    weight = checkpoint.model.head.weight
    kept = weight.detach().clone()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(export, "export_graph", copied)
        weight.mul_(factor)
        try:
            yield checkpoint
        finally:
            weight.copy_(kept)


@pytest.mark.parametrize(("factor", "error"), [(1.01, r"\d\.\d\de-0\d"), (-1.0, r"\d\.\d\d"), (np.nan, "nan")])
def test_a_failed_gate_leaves_nothing(
    exported: tuple[Checkpoint, Bundle], tmp_path: Path, factor: float, error: str
) -> None:
    calibration, evaluation = report(exported[0])
    reason = rf"does not match the trained model: the error {error}\S* in the case '.*' is above 1e-04"
    with stale_graph(exported, factor) as checkpoint, pytest.raises(ParityError, match=reason):
        export_bundle(checkpoint, calibration, evaluation, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_gate_leaves_an_existing_bundle_as_it_was(exported: tuple[Checkpoint, Bundle]) -> None:
    folder, digest = exported[1].folder, exported[1].digest
    calibration, evaluation = report(exported[0])
    with stale_graph(exported, 1.01) as checkpoint, pytest.raises(ParityError):
        export_bundle(checkpoint, calibration, evaluation, folder)
    assert read_bundle(folder).digest == digest
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_bundle_is_replaced_and_nothing_else_is(exported: tuple[Checkpoint, Bundle], tmp_path: Path) -> None:
    calibration, evaluation = report(exported[0])
    with stale_graph(exported, 1.0) as checkpoint:
        first = export_bundle(checkpoint, calibration, evaluation, tmp_path / "bundle")
        warmer = calibration.model_copy(update={"temperature": 2.0})
        second = export_bundle(checkpoint, warmer, evaluation, tmp_path / "bundle")
        assert second.digest != first.digest
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        with pytest.raises(BundleError, match="not a bundle"):
            export_bundle(checkpoint, calibration, evaluation, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "thesis"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_a_file(model: Any, path: Path, block_queries: int) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    checkpoint = tiny_checkpoint(Family.CAUSAL)
    monkeypatch.setattr(export, "export_graph", half_a_file)
    with pytest.raises(OSError, match="No space"):
        export_bundle(checkpoint, *report(checkpoint), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_trained_on_a_gpu_is_exported_from_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint(Family.CAUSAL)
    moved = tiny_checkpoint(Family.CAUSAL).model
    monkeypatch.setattr(checkpoint.model, "cpu", lambda: moved)
    traced: list[RewardModel] = []

    def stop(model: RewardModel, *_: object) -> None:
        traced.append(model)
        raise ExportError("far enough")

    figures = report(checkpoint)
    monkeypatch.setattr(export, "export_graph", stop)
    with pytest.raises(ExportError, match="far enough"):
        export_bundle(checkpoint, *figures, tmp_path / "bundle")
    assert traced == [moved]
