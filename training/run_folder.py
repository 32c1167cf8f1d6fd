"""What lies in a run's folder: the names of its files, reading them with one clear line on damage, taking them away."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from training.checkpoint_error import CheckpointError
from training.config import TrainingConfig
from training.error_text import first_complaint

BEGUN = "configuration.json"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
TRAINED = "training.json"
EVALUATION = (
    "calibration.json", "evaluated.json", "evaluation.json", "pairs.jsonl", "reference.json", "report.html",
    "report.json", "summary.md",
)  # fmt: skip
TESTS = "tests"
"""Tests on data that the run does not know, a folder for each."""
RESULTS = ("data.json", TRAINED, "model", TESTS, *EVALUATION)

STATE = "trainer_state.json"
"""Written last into a checkpoint, so that one without it is not whole."""

_Model = TypeVar("_Model")


def with_split_seed(record: Any) -> Any:
    """The recorded configuration of a run; where there was one seed for all, it is also that of the split."""
    if isinstance(record, dict) and isinstance(data := record.get("data"), dict) and "seed" not in data:
        return record | {"data": data | {"seed": (record.get("optimiser") or {}).get("seed", 0)}}
    return record


class Begun(BaseModel):
    """What a run notes when it begins, and `--resume` goes by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    configuration: Annotated[TrainingConfig, BeforeValidator(with_split_seed)]
    data_sha256: str


def read_begun(run: Path) -> Begun:
    """The settings and the data that a run began with.

    Raises:
        FileNotFoundError: there is no run.
        CheckpointError: its note cannot be read.
    """
    path = run / BEGUN
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, so there is no run to resume; leave out --resume")
    return read_as(Begun, path, "begin anew with --overwrite")


def recorded_configuration(path: Path, content: Any) -> TrainingConfig:
    """The configuration that a checkpoint at `path` was trained with, as its provenance holds it.

    Raises:
        CheckpointError: it is of another version.
    """
    try:
        return TrainingConfig.model_validate(with_split_seed(content))
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: its configuration is not one of this version: {first_complaint(error)}; train anew"
        ) from error


def read_as(kind: type[_Model], path: Path, remedy: str) -> _Model:
    """The content of a file as a checked value.

    Raises:
        CheckpointError: it cannot be read, or is no `kind`; names the first thing that is wrong, and `remedy`.
    """
    try:
        return TypeAdapter(kind).validate_python(read(path))
    except ValidationError as error:
        raise CheckpointError(f"{path}: {first_complaint(error)}; {remedy}") from error


def read(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        CheckpointError: it is missing, or holds no JSON.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; run `assay-train evaluate` first")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def write(path: Path, content: object) -> None:
    """Write a JSON value, whole or not at all.

    Raises:
        OSError: naming the file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def remove(run: Path, names: Iterable[str]) -> None:
    """Take away what an earlier run left, so that nothing of it can be taken for this one's."""
    for name in names:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def holds_run(run: Path, mark: str) -> bool:
    """Whether the folder holds a run, which the file `mark` tells; not if it is missing or empty.

    Raises:
        ValueError: it holds something else.
    """
    if not run.is_dir() or not any(run.iterdir()):
        return False
    if not (run / mark).is_file():
        raise ValueError(f"--run {run}: the folder is not empty and holds no run; name another")
    return True


def refuse_to_delete(config: TrainingConfig) -> None:
    """Refuse a folder whose content is not ours to replace, or is a run that nobody said may be lost.

    Raises:
        ValueError: naming the folder and the way out.
    """
    run = config.run
    above = next(folder for folder in (run, *run.absolute().parents) if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"--run {run}: no folder can be made or written in {above}; name another")
    if not holds_run(run, BEGUN) or config.overwrite:
        return
    if (run / TRAINED).is_file():
        raise ValueError(f"--run {run}: holds a finished run; --overwrite replaces it, or name another folder")
    if resumable(run):
        raise ValueError(f"--run {run}: holds an unfinished run; --resume goes on with it, --overwrite begins anew")


def whole_checkpoints(run: Path) -> list[Path]:
    """The checkpoints that were written to the end, oldest first."""
    numbered = {
        int(number): path.parent
        for path in (run / CHECKPOINTS).glob(f"checkpoint-*/{STATE}")
        if (number := path.parent.name.removeprefix("checkpoint-")).isdecimal()
    }
    return [numbered[number] for number in sorted(numbered)]


def resumable(run: Path) -> bool:
    """Whether an unfinished run has a checkpoint to go on from."""
    return (run / BEGUN).is_file() and not (run / TRAINED).is_file() and bool(whole_checkpoints(run))
