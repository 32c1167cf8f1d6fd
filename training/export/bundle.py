"""Export: graph, parity gate, report, manifest -> a bundle, or nothing."""

import json
import shutil
import tempfile
from pathlib import Path

import onnxruntime

from service.bundle.calibration import Calibration
from service.bundle.manifest import (
    MODEL_NAME,
    PARITY_NAME,
    REFERENCE_NAME,
    REPORT_FOLDER,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    Manifest,
)
from service.bundle.reader import Bundle
from service.bundle.reference import Reference
from service.bundle.writer import list_files, write_bundle
from training.checkpoint import Checkpoint
from training.evaluation.evaluate import Evaluation
from training.evaluation.summary import summary
from training.export.graph import export_graph
from training.export.parity import ParityError, measure_parity, parity_cases


def export_bundle(
    checkpoint: Checkpoint,
    calibration: Calibration,
    evaluation: Evaluation,
    destination: Path,
    reference: Reference | None = None,
    page: str | None = None,
) -> Bundle:
    """Write the bundle; an existing one at `destination` is replaced only by one that passed the gate.

    `page` is the report as HTML. With `reference`, servers can check on their own machine whether a lower precision
    will do. The model is left on the CPU, where the graph is traced and both are compared; training may have put it on
    a GPU.

    Raises:
        ExportError: the backbone cannot be written as a graph; nothing is written.
        ParityError: graph and module differ; nothing is written.
        BundleError: the result is not a valid bundle; nothing is written.
    """
    description, model = checkpoint.description, checkpoint.model.cpu().eval()
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    staging = scratch / "bundle"
    staging.mkdir()  # the scratch folder is for its owner's eyes only; the bundle need not be
    try:
        export_graph(model, staging / MODEL_NAME, description.block_queries)
        session = onnxruntime.InferenceSession(staging / MODEL_NAME, providers=["CPUExecutionProvider"])
        parity = measure_parity(
            model,
            lambda arrays: session.run(None, dict(arrays))[0],
            parity_cases(
                checkpoint.formatter.tokenizer.vocabulary_size,
                description.max_tokens,
                seed=0,
                block_queries=description.block_queries,
            ),
            description.block_queries,
            "fp32",
            calibration.scale,
        )
        if parity.failure is not None:
            raise ParityError(f"the exported graph does not match the trained model: {parity.failure}")
        _write_json(staging / PARITY_NAME, parity.as_json())
        if reference is not None:
            (staging / REFERENCE_NAME).write_text(reference.model_dump_json() + "\n", encoding="utf-8")
        report = staging / REPORT_FOLDER
        report.mkdir()
        _write_json(report / "evaluation.json", evaluation.as_json())
        (report / "summary.md").write_text(summary(description.name, evaluation), encoding="utf-8")
        if page is not None:
            (report / "report.html").write_text(page, encoding="utf-8")
        (staging / TOKENIZER_NAME).write_bytes(checkpoint.formatter.tokenizer.definition.encode())
        (staging / TEMPLATE_NAME).write_bytes(checkpoint.formatter.template.encode())
        manifest = Manifest(
            name=description.name,
            base_model=description.base_model,
            licence=description.licence,
            family=description.family,
            pooling=description.pooling,
            max_tokens=description.max_tokens,
            text_format=description.text_format,
            text_format_sha256=checkpoint.formatter.sha256,
            block_queries=description.block_queries,
            precision="fp32",
            heads=description.heads.outputs,
            calibration=calibration,
            evaluation=evaluation.brief(),
            provenance=description.provenance,
            files=list_files(staging),
        )
        return write_bundle(staging, manifest, destination)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
