"""Files of the three benchmarks, told by their columns, and scored whole."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.layout import Family
from service.bundle.text_format import Message
from tests.training.tiny import tiny_checkpoint
from training.data.errors import DataError
from training.evaluation.reward_benchmarks.tasks import read_tasks, score_tasks
from training.text_scorer import TextScorer, TextScores

V1 = {"id": 3, "prompt": "2+2?", "chosen": "4", "rejected": "5", "subset": "math-prm", "chosen_model": "human"}
V2 = {"id": "tied:3", "prompt": "2+2?", "chosen": ["4", "four"], "rejected": ["5"], "num_correct": 2, "subset": "Ties"}
RM = {
    "id": "7",
    "prompt": "2+2?",
    "chosen": ["4", "It is 4", "**4**"],
    "rejected": ["5", "It is 5", "**5**"],
    "domain": "math",
}


def file_of(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("row", "kind"), [(V1, "rewardbench"), (V2, "rewardbench2"), (RM, "rm-bench")])
def test_the_benchmark_is_told_by_its_columns(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    found, (task,) = read_tasks(file_of(tmp_path, row))
    assert found == kind
    assert (task.prompt, task.id) == ("2+2?", str(row["id"]))
    assert task.chosen == (row["chosen"] if isinstance(row["chosen"], list) else [row["chosen"]])
    assert task.group == row.get("subset", row.get("domain"))


@pytest.mark.parametrize(("row", "kind"), [(V1, "rewardbench"), (V2, "rewardbench2"), (RM, "rm-bench")])
def test_csv_holds_lists_as_json(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    path = tmp_path / "rows.csv"
    cells = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cells))
        writer.writeheader()
        writer.writerow(cells)
    assert read_tasks(path) == read_tasks(file_of(tmp_path, {**row, "id": str(row["id"])}))
    assert read_tasks(path)[0] == kind


def test_a_prompt_may_be_messages(tmp_path: Path) -> None:
    _, (task,) = read_tasks(file_of(tmp_path, {**V1, "prompt": [{"role": "user", "content": "2+2?"}]}))
    assert task.prompt == [Message(role="user", content="2+2?")]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no rows"),
        ([V1, {**V1, "chosen": "\ud800x"}], "rows.jsonl:2: chosen holds half a surrogate pair"),
        ([{"question": "q"}], r"rows.jsonl:1: cannot tell the benchmark from the columns \(question\)"),
        ([V1, {**V1, "chosen": 4}], "rows.jsonl:2: column 'chosen' must be text"),
        ([{**V2, "rejected": []}], "rows.jsonl:1: 2 chosen and 0 rejected responses; both need some"),
        ([{**RM, "chosen": ["4", "5"]}], "rows.jsonl:1: 2 chosen and 3 rejected responses; RM-Bench has 3 styles"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_tasks(file_of(tmp_path, *rows))


def test_every_response_gets_its_score(tmp_path: Path) -> None:
    def score(items: Sequence[tuple[str | list[Message], str]]) -> TextScores:
        lengths = np.array([len(text) for _, text in items])
        return TextScores(lengths.astype(np.float64), [b""] * len(items), np.maximum(0, lengths - 3))

    _, tasks = read_tasks(file_of(tmp_path, V2, {**V2, "id": "ref:3", "chosen": ["!!!"], "rejected": ["", "!"]}))
    (first, second), cut = score_tasks(tasks, score)
    assert cut == 1
    assert (first.chosen.tolist(), first.rejected.tolist()) == ([1, 4], [1])
    assert (second.chosen.tolist(), second.rejected.tolist()) == ([3], [0, 1])


@pytest.mark.parametrize("family", list(Family))
def test_a_model_scores_texts_as_it_does_alone(family: Family) -> None:
    """In company, whatever prompts are neighbours."""
    scorer = TextScorer(tiny_checkpoint(family), progress=False)
    items: list[tuple[str | list[Message], str]] = [
        ("p", "a"),
        ("p", "bb"),
        ("q", "a"),
        ("p", "a"),
        ("p" * 500, "long"),
    ]
    together = scorer(items)
    assert together.rewards == pytest.approx([float(scorer([item]).rewards[0]) for item in items], abs=1e-5)
    assert together.rewards[0] == together.rewards[3]  # equal tokens are scored once
    assert (together.removed > 0).tolist() == [False] * 4 + [True]
    assert together.keys[0] == together.keys[3] != together.keys[1]
