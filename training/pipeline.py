"""The commands: fit, evaluate, export, and all three. Each reads what the one before left in the run's folder."""

import datetime
import importlib.metadata
import json
import logging
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import set_seed

from service.bundle.calibration import Calibration
from service.bundle.layout import Family, Pooling
from service.bundle.manifest import Provenance
from service.bundle.reader import Bundle
from service.bundle.text_format import Formatter
from training.backbone import load_backbone
from training.checkpoint import Checkpoint, CheckpointError, Description, load_checkpoint, save_checkpoint
from training.config import TrainingConfig
from training.evaluation.evaluate import Evaluation, calibrate, evaluate
from training.evaluation.summary import summary
from training.examples import encode_records, truncated
from training.export.bundle import export_bundle
from training.fit import FitResult, fit
from training.model import RewardModel
from training.prepare import PreparedData, prepare_data
from training.scoring import score_examples

logger = logging.getLogger("assay.training")

MOST_TOKENS_BY_DEFAULT = 1024
_LIBRARIES = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime", "numpy")


def run_fit(config: TrainingConfig) -> FitResult:
    """Train; leaves `data.json`, `training.json` and `model/` in the run's folder.

    Raises:
        DataError, UnsupportedBackboneError, FileNotFoundError, FloatingPointError: see the message.
    """
    config.run.mkdir(parents=True, exist_ok=True)
    data = prepare_data(config.data, config.optimiser.seed)
    _write(config.run / "data.json", data.account)
    _report_data(data)
    checkpoint = new_checkpoint(config, data)
    model, formatter = checkpoint.model, checkpoint.formatter
    train = encode_records(data.splits.train, formatter, config.progress)
    validation = encode_records(data.splits.validation, formatter, config.progress)
    if cut := truncated(train) + truncated(validation):
        logger.warning("%d items were longer than %d tokens and were cut", cut, formatter.max_tokens)
    result = fit(model, train, validation, config)
    save_checkpoint(checkpoint, config.run / "model")
    _write(config.run / "training.json", asdict(result))
    logger.info("trained %d updates, validation loss %.4f", result.updates, result.best_validation_loss)
    return result


def new_checkpoint(config: TrainingConfig, data: PreparedData) -> Checkpoint:
    """An untrained reward model on the configured backbone; the seed is set before the head is drawn."""
    backbone = load_backbone(config.model.backbone)
    family = backbone.family
    pooling = Pooling(config.model.pooling or ("last" if family is Family.CAUSAL else "mean"))
    max_tokens = config.model.max_tokens or min(backbone.max_positions, MOST_TOKENS_BY_DEFAULT)
    if max_tokens > backbone.max_positions:
        raise ValueError(f"model.max_tokens is {max_tokens}, but the backbone has {backbone.max_positions} positions")
    set_seed(config.optimiser.seed)
    description = Description(
        name=config.name,
        base_model=backbone.source.name,
        licence=config.licence or backbone.source.licence,
        family=family,
        pooling=pooling,
        heads=("reward",),
        max_tokens=max_tokens,
        block_queries=config.model.block_queries,
        text_format=backbone.text_format,
        provenance=Provenance(
            data_sha256=data.sha256,
            records=data.records,
            seed=config.optimiser.seed,
            commit=_commit(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
            configuration=config.portable(),
        ),
    )
    formatter = Formatter(backbone.text_format, backbone.template, backbone.tokenizer, max_tokens)
    model = RewardModel(backbone.model, family, pooling, dropout=config.model.dropout)
    return Checkpoint(model, formatter, description)


def run_evaluate(config: TrainingConfig) -> Evaluation:
    """Score validation and test prompts; leaves `calibration.json`, `evaluation.json` and `summary.md`.

    The data are those that the model was trained and split with, whatever this configuration says.

    Raises:
        CheckpointError: nothing was trained here, or its data have changed since.
        DataError: the data cannot be read.
    """
    checkpoint = load_checkpoint(config.run / "model")
    provenance = checkpoint.description.provenance
    trained = TrainingConfig.model_validate(provenance.configuration)
    data = prepare_data(trained.data, provenance.seed)
    if data.sha256 != provenance.data_sha256:
        raise CheckpointError(
            f"{config.run}: the data have changed since the model was trained, so its test prompts are not the ones "
            "held out then; train again"
        )
    parts = []
    for records in (data.splits.validation, data.splits.test):
        examples = encode_records(records, checkpoint.formatter, config.progress)
        scores = score_examples(
            checkpoint.model, examples, checkpoint.description.block_queries, progress=config.progress
        )
        parts.append((examples, scores))
    calibration = calibrate(*parts[0])
    evaluation = evaluate(*parts[1], temperature=calibration.temperature)
    _write(config.run / "calibration.json", calibration.model_dump(mode="json"))
    _write(config.run / "evaluation.json", evaluation.as_json())
    (config.run / "summary.md").write_text(summary(checkpoint.description.name, evaluation), encoding="utf-8")
    return evaluation


def run_export(config: TrainingConfig) -> Bundle:
    """Write the bundle of an evaluated model.

    Raises:
        CheckpointError: nothing was trained or evaluated here.
        ParityError, BundleError: the result must not be served; nothing is written.
    """
    checkpoint = load_checkpoint(config.run / "model")
    calibration = Calibration.model_validate(_read(config.run / "calibration.json"))
    evaluation = TypeAdapter(Evaluation).validate_python(_read(config.run / "evaluation.json"))
    bundle = export_bundle(checkpoint, calibration, evaluation, config.bundle)
    logger.info("wrote %s, digest %s", config.bundle, bundle.digest)
    return bundle


def _read(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; run `assay-train evaluate` first")
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _report_data(data: PreparedData) -> None:
    for name, size in data.account["parts"].items():
        logger.info("%s: %d prompts, %d responses, %d judgements", name, *size.values())
    for row in data.account["skipped_rows"]:
        logger.warning("skipped %s:%s: %s", row["file"], row["line"], row["reason"])
    for name, finding in data.account["hygiene"].items():
        if isinstance(finding, dict) and finding["count"]:
            logger.warning("%s: %d, such as %s", name.replace("_", " "), finding["count"], finding["examples"][0])


def _commit() -> str | None:
    """Version-control commit of the code that trains, where there is one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
