"""The rows of a benchmark's file, in one form."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.bundle.text_format import Message
from training.data.errors import DataError
from training.data.readers import fields
from training.data.readers.folder import kind_of
from training.data.readers.rows import raw_rows
from training.data.record import is_unicode
from training.evaluation.metrics import FloatArray
from training.text_scorer import Prompt, TextScores

Kind = Literal["rewardbench", "rewardbench2", "rm-bench"]
STYLES = 3
"""Of RM-Bench: concise, detailed, detailed with markdown, in this order."""


@dataclass(frozen=True)
class Task:
    """A prompt with good and bad responses; `group` is its subset or domain."""

    id: str
    prompt: str | list[Message]
    chosen: list[str]
    rejected: list[str]
    group: str


@dataclass(frozen=True)
class Scored:
    """A task with the scores of its responses, (chosen,) and (rejected,)."""

    task: Task
    chosen: FloatArray
    rejected: FloatArray


def read_tasks(path_or_name: str | Path) -> tuple[Kind, list[Task]]:
    """The tasks of a file, or of `hf:NAME[:SPLIT]`, in the format that the columns of its first row show.

    `domain`: RM-Bench; `subset` with lists of responses: RewardBench 2; with one of each: RewardBench.

    Raises:
        DataError: no such file, no rows, or a row that is not of the format.
    """
    kind: Kind | None = None
    tasks = []
    for row in raw_rows(path_or_name):
        try:
            if isinstance(row.columns, DataError):
                raise row.columns
            columns = _with_lists(row.columns) if kind_of(Path(row.file)) == ".csv" else row.columns
            kind = kind or _kind(columns)
            task = _READERS[kind](columns, str(columns.get("id", row.line)))
            _refuse_half_characters(task)
            tasks.append(task)
        except DataError as error:
            raise DataError(error.reason, file=row.file, line=row.line) from error
    if kind is None:
        raise DataError("no rows", file=str(path_or_name))
    return kind, tasks


def score_tasks(
    tasks: Sequence[Task], score: Callable[[Sequence[tuple[Prompt, str]]], TextScores]
) -> tuple[list[Scored], int]:
    """Every response of every task, scored in one call of `score`, and how many were cut to fit."""
    told = score([(task.prompt, text) for task in tasks for text in (*task.chosen, *task.rejected)])
    ends = np.cumsum([len(task.chosen) + len(task.rejected) for task in tasks])[:-1]
    scored = [
        Scored(task, part[: len(task.chosen)], part[len(task.chosen) :])
        for task, part in zip(tasks, np.split(told.rewards, ends), strict=True)
    ]
    return scored, int((told.removed > 0).sum())


def _kind(row: Mapping[str, Any]) -> Kind:
    columns = {name for name, value in row.items() if value is not None}
    if {"prompt", "chosen", "rejected", "domain"} <= columns:
        return "rm-bench"
    if {"prompt", "chosen", "rejected", "subset"} <= columns:
        return (
            "rewardbench2" if isinstance(row["chosen"], list) and isinstance(row["rejected"], list) else "rewardbench"
        )
    found = ", ".join(sorted(columns)) or "none"
    raise DataError(
        f"cannot tell the benchmark from the columns ({found}): RewardBench has prompt, chosen, rejected and subset, "
        "RM-Bench domain instead of subset"
    )


def _with_lists(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of CSV, whose cells are texts, with the lists of texts that some hold as JSON."""
    return {**row, **{name: _listed(row[name]) for name in ("chosen", "rejected") if isinstance(row.get(name), str)}}


def _listed(cell: str) -> str | list[str]:
    if cell.lstrip().startswith("["):
        try:
            value = json.loads(cell)
        except ValueError:
            return cell
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return value
    return cell


def _refuse_half_characters(task: Task) -> None:
    prompt = [task.prompt] if isinstance(task.prompt, str) else [turn.content for turn in task.prompt]
    for name, texts in (("prompt", prompt), ("chosen", task.chosen), ("rejected", task.rejected)):
        if not all(map(is_unicode, texts)):
            raise DataError(f"{name} holds half a surrogate pair, which is no character and has no UTF-8")


def _rewardbench(row: Mapping[str, Any], name: str) -> Task:
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    return Task(name, fields.prompt(row), [chosen], [rejected], fields.text(row, "subset"))


def _rewardbench2(row: Mapping[str, Any], name: str) -> Task:
    chosen, rejected = fields.texts(row, "chosen"), fields.texts(row, "rejected")
    if not chosen or not rejected:
        raise DataError(f"{len(chosen)} chosen and {len(rejected)} rejected responses; both need some")
    return Task(name, fields.prompt(row), chosen, rejected, fields.text(row, "subset"))


def _rm_bench(row: Mapping[str, Any], name: str) -> Task:
    chosen, rejected = fields.texts(row, "chosen"), fields.texts(row, "rejected")
    if (len(chosen), len(rejected)) != (STYLES, STYLES):
        raise DataError(
            f"{len(chosen)} chosen and {len(rejected)} rejected responses; RM-Bench has {STYLES} styles of both"
        )
    return Task(name, fields.prompt(row), chosen, rejected, fields.text(row, "domain"))


_READERS: Mapping[Kind, Callable[[Mapping[str, Any], str], Task]] = {
    "rewardbench": _rewardbench,
    "rewardbench2": _rewardbench2,
    "rm-bench": _rm_bench,
}
