"""The commands: fit, evaluate, export, and all three. Each reads what the one before left in the run's folder."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from service.bundle.calibration import Calibration
from service.bundle.reader import Bundle
from service.bundle.reference import Reference
from service.bundle.text_format import Formatter
from training import processes
from training.adapters import merge_adapters
from training.checkpoint import (
    checkpoint_in,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from training.checkpoint_error import CheckpointError
from training.config import DataConfig, TrainingConfig
from training.data.record import PreferenceRecord
from training.data.record_store import RecordStore
from training.destination import destination_of, refuse_another
from training.encoding import Example, cut_alike, encode_records, truncated
from training.error_text import first_line
from training.evaluation.evaluate import Evaluation
from training.evaluation.measure import measure
from training.evaluation.metrics import FEW_CLUSTERS
from training.export.bundle import export_bundle
from training.export.classifier import export_classifier, refuse_no_classifier
from training.fit import FitResult, checkpoint_to_resume, fit, refuse_unranked
from training.judgement_weights import check_aspects
from training.learnt import began_elsewhere, refuse_learnt
from training.new_checkpoint import new_checkpoint
from training.prepare import PreparedData, prepare_data
from training.prepare_stored import prepare_stored
from training.run_folder import (
    BEGUN,
    CHECKPOINTS,
    EVALUATION,
    RESULTS,
    TENSORBOARD,
    TRAINED,
    read,
    read_as,
    read_begun,
    recorded_configuration,
    refuse_to_delete,
    remove,
    write,
)
from training.scoring import move_to_accelerator
from training.sharding import refuse_unsharded
from training.token_store import TokenStore, tokenize
from training.trainer import trackers_here

logger = logging.getLogger("assay.training")

AGAIN = "run `assay-train evaluate` again"


def run_fit(config: TrainingConfig) -> FitResult:
    """Train; leaves `configuration.json`, `data.json`, `training.json` and `model/` in the run's folder.

    What an earlier run left there is replaced, once data and backbone have been read. With `config.resume` all
    settings are those that the run began with.

    Raises:
        ValueError: settings that cannot be, or, on resuming, others than the run's (DataError, CheckpointError,
            UnsupportedBackboneError are of this kind).
        FileNotFoundError: a backbone that is not there, or nothing to resume.
        FloatingPointError: the loss is not finite.
    """
    begun = None
    if config.resume:
        begun = read_begun(config.run)
        config = _as_begun(config, begun.configuration)
    else:
        refuse_to_delete(config)
    processes.refuse_uneven(config.optimiser.batch_elements)
    if config.optimiser.fsdp:
        refuse_unsharded()
    trackers_here(config.trackers)
    with processes.main_first():
        data = prepared(config.data, config.progress)
    report_data(data.account)
    on_aspects, with_margin = _on_aspects_and_with_margin(data)
    if on_aspects and not config.model.aspects:
        logger.warning(
            "%d training judgements name an aspect; without model.aspects they all teach one score", on_aspects
        )
    if with_margin and not config.loss.margin_weight:
        logger.warning("the margins of %d training judgements are not used: loss.margin_weight is 0", with_margin)
    check_aspects(data.splits.train, [*data.splits.validation, *data.splits.test], config.model.heads)
    if config.loss.kind == "plackett-luce":
        refuse_unranked(data.splits.train)
    _refuse_own_folder(config)
    checkpoint = new_checkpoint(config, data)
    if config.export.transformers is not None:
        refuse_no_classifier(checkpoint.description, config.export.transformers)
    if (earlier := checkpoint.description.provenance.began_with) is not None:
        refuse_learnt(data.splits, earlier, Path(config.model.backbone), config.data)
    formatter = checkpoint.formatter
    with processes.main_first():
        train = _encoded(data.splits.train, formatter, config.progress)
    validation = encode_records(data.splits.validation, formatter, config.progress)
    if cut := (train.truncated if isinstance(train, TokenStore) else truncated(train)) + truncated(validation):
        logger.warning("%d items were longer than %d tokens and were cut", cut, formatter.max_tokens)
    for name, part in (("training", train if config.optimiser.epochs else []), ("validation", validation)):
        _tell_of_alike(name, part, formatter.max_tokens)
    if begun is not None:
        if begun.data_sha256 != data.sha256:
            raise CheckpointError(f"{config.run}: the data have changed since the run began; train anew")
        # Before anything is taken away: a finished run keeps its model when its checkpoint is damaged.
        checkpoint_to_resume(checkpoint.model, config)
    processes.wait()
    if processes.is_main():
        _begin(config, data, resumed=begun is not None)
    processes.wait()
    result = fit(checkpoint.model, train, validation, config)
    if config.model.lora_rank:
        merge_adapters(checkpoint.model)
    if processes.is_main():
        save_checkpoint(checkpoint, config.run / "model")
        write(config.run / TRAINED, asdict(result))
    processes.wait()
    if result.best_validation_loss is None:
        logger.info("left as it came")
    else:
        logger.info("trained %d updates, validation loss %.4f", result.updates, result.best_validation_loss)
    return result


def _begin(config: TrainingConfig, data: PreparedData, resumed: bool) -> None:
    """Take away what an earlier run left, and note what this one begins with."""
    if resumed:
        remove(config.run, RESULTS)
    else:
        remove(config.run, (*RESULTS, BEGUN, CHECKPOINTS, TENSORBOARD))
        config.run.mkdir(parents=True, exist_ok=True)
        write(config.run / BEGUN, {"configuration": config.portable(), "data_sha256": data.sha256})
    write(config.run / "data.json", data.account)


def prepared(config: DataConfig, progress: bool) -> PreparedData:
    """The data of a run, in memory or from its store."""
    return prepare_data(config) if config.store is None else prepare_stored(config, progress)


def _encoded(records: Sequence[PreferenceRecord], formatter: Formatter, progress: bool) -> Sequence[Example]:
    if isinstance(records, RecordStore):
        return tokenize(records, formatter, progress)
    return encode_records(records, formatter, progress)


def _tell_of_alike(name: str, examples: Sequence[Example], max_tokens: int) -> None:
    """Say how many pairs differ only in what was cut off; of examples in a store not, which are read one by one."""
    judged, alike = (0, 0) if isinstance(examples, TokenStore) else cut_alike(examples)
    if alike and alike == judged:
        raise ValueError(
            f"cut to {max_tokens} tokens, the responses of all {judged} {name} pairs are the same: nothing tells them "
            "apart; raise model.max_tokens"
        )
    if alike:
        logger.warning(
            "cut to %d tokens, the responses of %d of %d %s pairs are the same, and teach and tell nothing; raise "
            "model.max_tokens",
            max_tokens,
            alike,
            judged,
            name,
        )


def _refuse_own_folder(config: TrainingConfig) -> None:
    """A run whose weights a training begins with must not be replaced by it."""
    earlier = checkpoint_in(Path(config.model.backbone))
    if earlier is not None and config.run.resolve() in (earlier.resolve(), *earlier.resolve().parents):
        raise ValueError(f"--run {config.run}: model.backbone is in it, and would be replaced; name another folder")


def _on_aspects_and_with_margin(data: PreparedData) -> tuple[int, int]:
    """How many training judgements name an aspect, and how many have a margin."""
    aspects = margins = 0
    for record in data.splits.train:
        for judgement in record.judgements:
            aspects += judgement.aspect is not None
            margins += bool(judgement.margin)
    return aspects, margins


def _as_begun(config: TrainingConfig, begun: TrainingConfig) -> TrainingConfig:
    """The configuration that the run to be resumed began with."""
    _refuse_other_settings(config, begun)
    own: dict[str, Any] = {"run": config.run, "resume": True, "progress": config.progress}
    own |= {name: getattr(begun, name).with_changes_of(getattr(config, name)) for name in ("report", "export")}
    if "trackers" in config.model_fields_set:
        own["trackers"] = config.trackers
    return begun.model_copy(update=own)


def _refuse_other_settings(config: TrainingConfig, trained: TrainingConfig) -> None:
    """Settings that came with the command and cannot have any effect any more must not be passed over."""
    if found := config.differences(trained, of=("name", "licence", "data", "model", "loss", "optimiser")):
        raise ValueError(
            f"{config.run} was trained with other settings: {'; '.join(found)}. Leave them out, or train anew"
        )


def run_evaluate(config: TrainingConfig) -> Evaluation:
    """Score validation and test prompts; leaves calibration, figures, every pair's scores and the report.

    Data and splits are those that the model was trained with.

    Raises:
        CheckpointError: nothing was trained here, or its data have changed since.
        ValueError: other settings than the model was trained with, or data that give no figures.
    """
    checkpoint = load_checkpoint(config.run / "model")
    provenance = checkpoint.description.provenance
    trained = recorded_configuration(config.run / "model", provenance.configuration)
    _refuse_other_settings(config, trained)
    data = prepared(trained.data, config.progress)
    if data.sha256 != provenance.data_sha256:
        raise CheckpointError(
            f"{config.run}: the data have changed since the model was trained, so its test prompts are not the "
            "ones held out then; train anew"
        )
    remove(config.run, EVALUATION)  # not before there can be another
    move_to_accelerator(checkpoint.model)
    if not data.account["learnt_prompts"] and began_elsewhere(provenance, config.run / "model"):
        data = replace(data, account={**data.account, "learnt_prompts": None})
    report = trained.report.with_changes_of(config.report)
    evaluation = measure(config.run, checkpoint, data, report.probe_responses, config.progress)
    write(config.run / "evaluated.json", {"weights_sha256": weights_sha256(config.run / "model")})
    return evaluation


def run_export(config: TrainingConfig) -> Bundle:
    """Write the bundle of an evaluated model, to `config.bundle` if it was set, else to where `fit` was told.

    Raises:
        CheckpointError: nothing was trained or evaluated here.
        ValueError: other settings than the model was trained with.
        ParityError, BundleError: the result must not be served; nothing is written.
        ExportError: the backbone cannot be written as a graph, or the model not as a classifier, as it was told.
        OSError: the bundle cannot be written.
    """
    checkpoint = load_checkpoint(config.run / "model")
    trained = recorded_configuration(config.run / "model", checkpoint.description.provenance.configuration)
    _refuse_other_settings(config, trained)
    calibration = read_as(Calibration, config.run / "calibration.json", AGAIN)
    evaluation = read_as(Evaluation, config.run / "evaluation.json", AGAIN)
    if read(config.run / "evaluated.json") != {"weights_sha256": weights_sha256(config.run / "model")}:
        raise CheckpointError(f"{config.run}: the weights are not those that were evaluated; run evaluate again")
    path = config.run / "reference.json"
    export = trained.export.with_changes_of(config.export)
    reference = read_as(Reference, path, AGAIN) if export.reference and path.is_file() else None
    destination = destination_of(config, trained)
    refuse_another(config, destination, checkpoint.description.provenance)
    report = config.run / "report.html"
    page = report.read_text(encoding="utf-8") if export.report and report.is_file() else None
    if export.transformers is not None:
        refuse_no_classifier(checkpoint.description, export.transformers)
    try:
        bundle = export_bundle(checkpoint, calibration, evaluation, destination, reference, page)
    except OSError as error:
        raise OSError(
            f"{destination}: the bundle cannot be written ({first_line(error)}), and nothing of it is left there; make "
            f"room, then `assay-train export --run {config.run}`"
        ) from error
    logger.info("wrote %s, digest %s", destination, bundle.digest)
    if export.transformers is not None:
        export_classifier(checkpoint, export.transformers)
        logger.info("wrote %s for transformers", export.transformers)
    return bundle


def report_data(account: dict[str, Any]) -> None:
    """Log what is in the data, and what is wrong with them."""
    for name, size in account["parts"].items():
        logger.info("%s: %d prompts, %d responses, %d judgements", name, *size.values())
        if name != "train" and size["prompts"] < FEW_CLUSTERS:
            logger.warning("%d %s prompts are few: what is measured on them is hardly sure", size["prompts"], name)
    for what in ("repeated_judgements_removed", "leaking_prompts_dropped"):
        if count := account[what]:
            logger.warning("%s: %d", what.replace("_", " "), count)
    for row in account["skipped_rows"]:
        logger.warning("skipped %s:%s: %s", row["file"], row["line"], row["reason"])
    if (found := account["contaminated"]) is not None and not found["count"]:
        logger.info("no training prompt shares passages with data.decontaminate")
    shared = {f"shared with the test, {name}": finding for name, finding in (account["leakage"] or {}).items()}
    findings = {**account["hygiene"], **shared}
    findings["training_prompts_that_share_passages_with_data.decontaminate"] = account["contaminated"]
    for name, finding in findings.items():
        if isinstance(finding, dict) and finding["count"]:
            logger.warning("%s: %d, such as %s", name.replace("_", " "), finding["count"], finding["examples"][0])
