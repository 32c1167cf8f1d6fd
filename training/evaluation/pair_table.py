"""Every judged pair of a test with its scores, as JSON lines: what two models are compared by."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from service.bundle.calibration import Calibration
from training.checkpoint_error import CheckpointError
from training.encoding import Example
from training.error_text import first_complaint
from training.evaluation.evaluate import Column
from training.evaluation.metrics import FloatArray
from training.run_folder import read_as


class PairRow(BaseModel):
    """One judged pair.

    Attributes:
        record: id of its record.
        prompt, first, second: hashes of the prompt and of the two texts.
        cluster: hash of what the split kept together.
        source, category: of the record.
        aspect: that was judged, if not all in all.
        preference, votes: share of votes for the first, and how many there are.
        length_first, length_second: characters.
        score_first, score_second: by the head that answers for the judgement.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    record: str
    prompt: str
    first: str
    second: str
    cluster: str
    source: str
    category: str | None
    aspect: str | None
    preference: float = Field(ge=0, le=1)
    votes: FiniteFloat = Field(gt=0)
    length_first: int = Field(ge=0)
    length_second: int = Field(ge=0)
    score_first: FiniteFloat
    score_second: FiniteFloat


def pair_rows(examples: Sequence[Example], scores: Sequence[FloatArray], column: Column) -> list[PairRow]:
    """The rows of a test; `scores` (responses, heads) for each example, and `column` the head of a judgement."""
    return [
        PairRow(
            record=example.record.id,
            prompt=example.record.prompt_key[:16],
            first=_hash(example.record.responses[judgement.i]),
            second=_hash(example.record.responses[judgement.j]),
            cluster=_hash(example.record.split_key),
            source=example.record.source,
            category=example.record.category,
            aspect=judgement.aspect,
            preference=judgement.soft_label,
            votes=judgement.votes,
            length_first=len(example.record.responses[judgement.i]),
            length_second=len(example.record.responses[judgement.j]),
            score_first=float(values[judgement.i, column(judgement)]),
            score_second=float(values[judgement.j, column(judgement)]),
        )
        for example, values in zip(examples, scores, strict=True)
        for judgement in example.record.judgements
    ]


def write_rows(path: Path, rows: Sequence[PairRow]) -> None:
    """One row a line."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(row.model_dump_json() + "\n")


def read_rows(path: Path) -> list[PairRow]:
    """The rows of a run.

    Raises:
        CheckpointError: no such file, or a line that is no row.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; run `assay-train evaluate` first")
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(PairRow.model_validate_json(line))
        except ValidationError as error:
            raise CheckpointError(
                f"{path}:{number}: {first_complaint(error)}; run `assay-train evaluate` again"
            ) from error
    return rows


def read_test(run: Path) -> tuple[list[PairRow], float]:
    """The rows of a run and the temperature of its model.

    Raises:
        CheckpointError: it was not evaluated, or a file is damaged.
    """
    rows = read_rows(run / "pairs.jsonl")
    return rows, read_as(Calibration, run / "calibration.json", "run `assay-train evaluate` again").temperature


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
