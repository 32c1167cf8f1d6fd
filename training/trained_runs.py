"""What is made of runs that were trained: the mean of several, and a test on data that a run does not know."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service.bundle.calibration import Calibration
from training.averaging import average_checkpoints
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import DataConfig, TrainingConfig
from training.evaluation.evaluate import Evaluation
from training.evaluation.measure import measure_new_data
from training.judgement_weights import check_known_aspects
from training.learnt import learnt_by
from training.new_data import prepare_new_data
from training.pipeline import AGAIN, report_data
from training.run_folder import (
    BEGUN,
    CHECKPOINTS,
    EVALUATION,
    RESULTS,
    TENSORBOARD,
    TRAINED,
    read,
    read_as,
    recorded_configuration,
    refuse_to_delete,
    remove,
    write,
)
from training.scoring import move_to_accelerator

logger = logging.getLogger("assay.training")

_TESTED = "test.json"
"""What a test was on; it marks its folder."""


def average_runs(
    runs: Sequence[Path], run: Path, bundle: Path, name: str | None = None, *, overwrite: bool = False
) -> None:
    """Leave the mean of the weights of `runs` in the folder `run`, as a run that was fitted.

    Args:
        runs: folders of two fitted runs or more, see `training.averaging.average_checkpoints`.
        run: the folder to write.
        bundle: where `export` will write it.
        name: of the model; that of the first by default.
        overwrite: `run` may hold a run, which is replaced.

    Raises:
        CheckpointError: nothing was trained in one of them, or it is damaged.
        ValueError: they have no mean, or `run` is one of them or holds something else.
    """
    if run.resolve() in [other.resolve() for other in runs]:
        raise ValueError(f"--run {run}: is one of those to be averaged; name another folder")
    refuse_to_delete(TrainingConfig(run=run, overwrite=overwrite))
    mean = average_checkpoints([other / "model" for other in runs])
    provenance = mean.description.provenance
    first = recorded_configuration(runs[0] / "model", provenance.configuration)
    own = {"run": run, "bundle": bundle, "name": name or first.name, "resume": False, "overwrite": False}
    export = first.export.model_copy(update={"transformers": None})  # that folder is the first run's
    config = first.model_copy(update={**own, "export": export})
    remove(run, (*RESULTS, BEGUN, CHECKPOINTS, TENSORBOARD))
    run.mkdir(parents=True, exist_ok=True)
    write(run / BEGUN, {"configuration": config.portable(), "data_sha256": provenance.data_sha256})
    provenance = provenance.model_copy(update={"configuration": config.portable()})
    description = mean.description.model_copy(update={"name": config.name, "provenance": provenance})
    save_checkpoint(replace(mean, description=description), run / "model")
    write(run / TRAINED, {"averaged": [str(other) for other in runs]})


def measure_on_new_data(run: Path, settings: DataConfig, folder: Path, progress: bool = True) -> Evaluation:
    """Score other data than the run's own, with its calibration; leaves figures, pairs and report in `folder`.

    Args:
        run: of a model that was evaluated.
        settings: `test` names the data, `format`, `columns` and `on_bad_row` say how they are read.
        folder: for what is found; what it holds of an earlier test is replaced.
        progress: show bars.

    Raises:
        CheckpointError: nothing was trained or evaluated here.
        DataError: data that cannot be read.
        ValueError: data that give no figures, or judge an aspect that the model has no head for.
    """
    _refuse_other_test(folder, settings.test)
    checkpoint = load_checkpoint(run / "model")
    calibration = read_as(Calibration, run / "calibration.json", AGAIN)
    provenance = checkpoint.description.provenance
    trained = recorded_configuration(run / "model", provenance.configuration)
    config = trained.data.model_copy(update=settings.model_dump(include={"test", "format", "columns", "on_bad_row"}))
    learnt = learnt_by(provenance, run / "model")
    for reason in learnt.unknown:
        logger.warning("what the test shares with the training data is not known: %s", reason)
    records, account = prepare_new_data(config, learnt)
    report_data(account)
    check_known_aspects(records, checkpoint.description.heads)
    folder.mkdir(parents=True, exist_ok=True)
    remove(folder, EVALUATION)
    write(folder / _TESTED, {"sources": list(settings.test)})
    move_to_accelerator(checkpoint.model)
    return measure_new_data(folder, checkpoint, records, calibration, account, trained.report.probe_responses, progress)


def _refuse_other_test(folder: Path, sources: Sequence[str]) -> None:
    """A folder may hold an earlier test on the same data, and nothing else.

    Raises:
        ValueError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / _TESTED).is_file():
        raise ValueError(f"--out {folder}: is there and holds no test; name another folder")
    if (before := read(folder / _TESTED)["sources"]) != list(sources):
        raise ValueError(f"--out {folder}: holds a test on {', '.join(before)}; name another folder")
