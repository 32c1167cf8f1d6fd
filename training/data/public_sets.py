"""Six public sets of human preferences, from gzip'd JSON lines to records.

Each reader takes the path of its file. Sides are shuffled where the file puts the winner first or favours a
place (`hh_harmless`, `ethics`, `qa_feedback`); the others come balanced. A row that is not as expected is a
`DataError`.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from training.data.components import components
from training.data.errors import DataError
from training.data.leakage import sentences
from training.data.readers import fields
from training.data.readers.fields import Row
from training.data.readers.formats import hh_row
from training.data.readers.rows import raw_rows
from training.data.record import PreferenceRecord
from training.data.sides import shuffle_sides

_T = TypeVar("_T")
_PROJECT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """The folder of the six files: `ASSAY_DATA`, else `../shared/data` of the project. It may not exist."""
    return Path(os.environ.get("ASSAY_DATA") or _PROJECT.parent / "shared" / "data")


def convarg(path: Path) -> list[PreferenceRecord]:
    """UKPConvArg1 (Habernal & Gurevych 2016): one record per debate side, with every vote.

    Responses are the arguments of the side (1,052 by their ids, of which 14 repeat another's text),
    judgements are all judged pairs with their votes and who cast them; "skip" is no vote. `group` is the side, as in
    the published cross-topic protocol; `category` is the debate, which two sides share.
    """
    return _debate_sides(path, _votes)


def convarg_strict(path: Path) -> list[PreferenceRecord]:
    """The same records with the 11,650 pairs of the published Strict subset, each one hard vote.

    Ids, prompts and responses are those of `convarg`, so that scores made for one serve the other.
    """
    return _debate_sides(path, _strict_label)


def hh_harmless(path: Path) -> list[PreferenceRecord]:
    """HH-RLHF harmless-base (Bai et al. 2022); `group` is the opening turn, which dialogues may share."""
    records = _each(path, lambda row, line: hh_row(row, f"hh-harmless-{line}", "hh-harmless"))
    return [
        shuffle_sides(record.model_copy(update={"group": f"hh:{record.messages[0].content}"})) for record in records
    ]


def qa_feedback(path: Path) -> list[PreferenceRecord]:
    """FineGrainedRLHF QA (Wu et al. 2023): one record per question, four answers, six comparisons.

    The prompt is the question alone. The passages that annotators saw are left out: thousands of tokens, most
    of them beside the point. A model judges these answers without the evidence.
    """
    return [shuffle_sides(record) for record in _each(path, _qa_feedback_row)]


def pandalm(path: Path) -> list[PreferenceRecord]:
    """PandaLM test set (Wang et al. 2023): three annotators' votes a pair (0 is a tie).

    Six responses are the JSON value `true` and not text; they become "true".
    """
    return _each(path, _pandalm_row)


def autoj(path: Path) -> list[PreferenceRecord]:
    """Auto-J pairwise test (Li et al. 2023): one vote a pair, ties kept; `category` is the scenario."""
    return _each(path, _autoj_row)


def ethics(path: Path) -> list[PreferenceRecord]:
    """ETHICS utilitarianism (Hendrycks et al. 2021): the more pleasant of two scenarios, without a prompt.

    Scenarios come in families that vary one another, so `group` joins all rows linked by a shared sentence:
    at most 16 rows in the training file, but over half of the test file, which is not to be divided. The two are not
    alike: training compares variants of one scenario, and in over a third of the test's rows the two share less than
    a fifth of their words (Jaccard), so that only a scale across scenarios orders them.
    """
    name = path.name.split(".")[0]
    records = [shuffle_sides(record) for record in _each(path, lambda row, line: _ethics_row(row, f"{name}-{line}"))]
    links = [sorted({sentence for text in record.responses for sentence in sentences(text)}) for record in records]
    labels = components(links)
    least: dict[int, str] = {}
    for label, own in zip(labels, links, strict=True):
        least[label] = min(own[0], least.get(label, own[0]))
    return [
        record.model_copy(update={"group": f"ethics:{least[label]}"})
        for record, label in zip(records, labels, strict=True)
    ]


PUBLIC_SETS: Mapping[str, Callable[[Path], list[PreferenceRecord]]] = {
    "convarg.jsonl.gz": convarg,
    "hh-harmless.jsonl.gz": hh_harmless,
    "qa-feedback.jsonl.gz": qa_feedback,
    "pandalm.jsonl.gz": pandalm,
    "autoj.jsonl.gz": autoj,
    "ethics-util-train.jsonl.gz": ethics,
    "ethics-util-test.jsonl.gz": ethics,
}


def _each(path: Path, read: Callable[[Row, int], _T]) -> list[_T]:
    """What `read(row, line)` makes of each row, with the place of a bad one in its error."""
    made: list[_T] = []
    for row in raw_rows(path):
        try:
            if isinstance(row.columns, DataError):
                raise row.columns
            made.append(read(row.columns, row.line))
        except DataError as error:
            raise DataError(error.reason, file=row.file, line=row.line) from error
    return made


def _debate_sides(path: Path, count: Callable[[Row], Mapping[str, Any] | None]) -> list[PreferenceRecord]:
    """One record per `topic`; `count` gives the votes of a row, or None for a row that is not wanted."""
    sides: dict[str, list[Row]] = {}
    for row in _each(path, lambda row, line: row):
        sides.setdefault(fields.text(row, "topic"), []).append(row)
    records: list[PreferenceRecord] = []
    for topic, rows in sides.items():
        places: dict[str, int] = {}
        responses: list[str] = []
        judgements: list[dict[str, Any]] = []
        for row in rows:
            ends = fields.text(row, "id").rpartition("/")[2].split("_")
            if len(ends) != 2:
                raise DataError(f"id {row['id']!r} does not end in two argument ids", file=str(path))
            for argument, column in zip(ends, ("a", "b"), strict=True):
                if places.setdefault(argument, len(responses)) == len(responses):
                    responses.append(fields.text(row, column))
            votes = count(row)
            if votes is not None:
                judgements.append({"i": places[ends[0]], "j": places[ends[1]], **votes})
        records.append(
            fields.record(
                id=f"convarg/{topic}",
                prompt=_debate_question(rows[0]),
                responses=responses,
                judgements=judgements,
                source="convarg",
                group=topic,
                category=fields.text(rows[0], "title"),
            )
        )
    return records


def _debate_question(row: Row) -> str:
    title, stance = fields.text(row, "title").strip(), fields.text(row, "stance").strip()
    return f"{title}\nWhat is a convincing argument for this side: {stance}?"


def _votes(row: Row) -> Mapping[str, Any] | None:
    cast = [vote for vote in fields.required(row, "votes") if vote[1] != "skip"]
    return fields.annotations({"votes": cast}, "votes") if cast else None


def _strict_label(row: Row) -> Mapping[str, Any] | None:
    label = row.get("strict")
    if label is None:
        return None
    return {"i_wins": float(_one_of(row, "strict", ("a", "b")) == "a"), "j_wins": float(label == "b")}


def _qa_feedback_row(row: Row, line: int) -> PreferenceRecord:
    winners: Mapping[Any, Mapping[str, float]] = {
        "i": {"i_wins": 1, "j_wins": 0},
        "j": {"i_wins": 0, "j_wins": 1},
        "tie": {"i_wins": 0, "j_wins": 0, "ties": 1},
    }
    comparisons = fields.required(row, "comparisons")
    return fields.record(
        id=fields.text(row, "id"),
        prompt=fields.text(row, "question"),
        responses=fields.texts(row, "answers"),
        judgements=[
            {"i": one["i"], "j": one["j"], **winners[_one_of(one, "preferred", tuple(winners))]} for one in comparisons
        ],
        source="qa-feedback",
    )


def _pandalm_row(row: Row, line: int) -> PreferenceRecord:
    choices = Counter(_one_of(row, f"annotator{number}", (0, 1, 2)) for number in (1, 2, 3))
    instruction, context = fields.text(row, "instruction"), fields.text(row, "input")
    responses = [fields.required(row, "response1"), fields.required(row, "response2")]
    return fields.record(
        id=f"pandalm-{fields.required(row, 'idx')}",
        prompt=f"{instruction}\n\n{context}" if context else instruction,
        responses=["true" if response is True else response for response in responses],
        judgements=[{"i": 0, "j": 1, "i_wins": choices[1], "j_wins": choices[2], "ties": choices[0]}],
        source="pandalm",
        category=fields.text(row, "motivation_app"),
    )


def _autoj_row(row: Row, line: int) -> PreferenceRecord:
    label = _one_of(row, "label", (0, 1, 2))
    return fields.record(
        id=f"autoj-{line}",
        prompt=fields.text(row, "prompt"),
        responses=[fields.text(row, "response 1"), fields.text(row, "response 2")],
        judgements=[{"i": 0, "j": 1, "i_wins": int(label == 0), "j_wins": int(label == 1), "ties": int(label == 2)}],
        source="autoj",
        category=fields.text(row, "scenario"),
    )


def _ethics_row(row: Row, row_id: str) -> PreferenceRecord:
    return fields.record(
        id=row_id,
        prompt="",
        responses=[fields.text(row, "pleasant"), fields.text(row, "less")],
        judgements=[{"i": 0, "j": 1, "i_wins": 1, "j_wins": 0}],
        source="ethics",
    )


def _one_of(row: Row, column: str, known: Sequence[Any]) -> Any:
    """A required value out of the `known` ones; `true` is not 1 here."""
    value = fields.required(row, column)
    if isinstance(value, bool) or value not in known:
        raise DataError(f"column {column!r} is {value!r}, not one of {', '.join(map(repr, known))}")
    return value
