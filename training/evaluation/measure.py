"""Measure a trained model on held-out prompts, and leave all there is to say of it in the folder of the run."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from service.bundle.calibration import Calibration
from training.checkpoint import Checkpoint
from training.data.record import PreferenceRecord
from training.encoding import Example, encode_records
from training.evaluation.analysis import analyse
from training.evaluation.evaluate import Evaluation, calibrate, evaluate, judged_pairs
from training.evaluation.metrics import FloatArray, bound_reason
from training.evaluation.pair_table import pair_rows, write_rows
from training.evaluation.probes import probe
from training.evaluation.report.page import Subject, page, responses_of
from training.evaluation.summary import summary
from training.judgement_weights import column_of
from training.prepare import PreparedData
from training.reference import select_reference
from training.run_folder import write
from training.scoring import rewards_of, score_heads
from training.text_scorer import TextScorer

logger = logging.getLogger("assay.training")


def measure(run: Path, checkpoint: Checkpoint, data: PreparedData, probe_responses: int, progress: bool) -> Evaluation:
    """Score validation and test prompts; leaves calibration, figures, every pair's scores and the report in `run`.

    Args:
        run: folder of the run.
        checkpoint: the trained model.
        data: that it was trained with.
        probe_responses: how many held-out responses are changed and scored again.
        progress: show bars.

    Raises:
        ValueError: data that give no figures.
    """
    calibration = calibrate(
        *_scored(checkpoint, data.splits.validation, progress), partial(column_of, heads=checkpoint.description.heads)
    )
    if (reason := bound_reason(calibration.temperature)) is not None:
        logger.warning("the temperature is at its bound (%.3g): %s", calibration.temperature, reason)
    test = _scored(checkpoint, data.splits.test, progress)
    if (reference := select_reference(test[0], rewards_of(test[1]))) is not None:
        write(run / "reference.json", reference.model_dump(mode="json"))
    return _report(run, checkpoint, test, calibration, data.account, probe_responses, progress)


def measure_new_data(
    folder: Path,
    checkpoint: Checkpoint,
    records: Sequence[PreferenceRecord],
    calibration: Calibration,
    account: dict[str, Any],
    probe_responses: int,
    progress: bool,
) -> Evaluation:
    """Score other records than the run's own by the calibration that the run has; leaves the same files in `folder`.

    Raises:
        ValueError: data that give no figures.
    """
    test = _scored(checkpoint, records, progress)
    return _report(folder, checkpoint, test, calibration, account, probe_responses, progress)


def _scored(
    checkpoint: Checkpoint, records: Sequence[PreferenceRecord], progress: bool
) -> tuple[list[Example], list[FloatArray]]:
    examples = encode_records(records, checkpoint.formatter, progress)
    return examples, score_heads(checkpoint.model, examples, checkpoint.description.block_queries, progress=progress)


def _report(
    folder: Path,
    checkpoint: Checkpoint,
    scored: tuple[list[Example], list[FloatArray]],
    calibration: Calibration,
    account: dict[str, Any],
    probe_responses: int,
    progress: bool,
) -> Evaluation:
    description = checkpoint.description
    column = partial(column_of, heads=description.heads)
    test, scores = scored
    evaluation = replace(
        evaluate(test, scores, calibration.temperature, column), learnt_prompts=account["learnt_prompts"]
    )
    write(folder / "calibration.json", calibration.model_dump(mode="json"))
    write(folder / "evaluation.json", evaluation.as_json())
    (folder / "summary.md").write_text(summary(description.name, evaluation), encoding="utf-8")
    write_rows(folder / "pairs.jsonl", pair_rows(test, scores, column))
    probes = None
    if probe_responses:
        texts = TextScorer(checkpoint, progress)
        probes = probe([example.record for example in test], texts, calibration.scale, probe_responses)
    analysis = analyse(test, scores, description.heads, calibration.temperature, probes)
    pairs = judged_pairs(test, scores, column)
    subject = Subject(
        name=description.name,
        base_model=description.base_model,
        heads=description.heads.outputs,
        max_tokens=description.max_tokens,
        text_format_sha256=checkpoint.formatter.sha256,
        data=account,
        provenance=description.provenance,
    )
    lengths = [[len(text) for text in example.record.responses] for example in test]
    html = page(
        subject, evaluation, analysis, calibration, pairs.select(pairs.preference != 0.5),
        responses_of(rewards_of(scores), lengths),
    )  # fmt: skip
    report = {
        "subject": subject.as_json(),
        "calibration": calibration.model_dump(mode="json"),
        "evaluation": evaluation.as_json(),
        "analysis": analysis.as_json(),
    }
    write(folder / "report.json", report)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return evaluation
