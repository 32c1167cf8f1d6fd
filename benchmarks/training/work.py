"""What is trained on: public preferences as steps of as many pairs for every contender."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.checkpoint import Checkpoint
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import PreferenceRecord, Splits, public_sets
from training.data.readers.rows import raw_rows
from training.encoding import Example, encode_records
from training.groups import compared_groups
from training.new_checkpoint import new_checkpoint
from training.prepare import PreparedData


@dataclass(frozen=True)
class Workload:
    """Preferences, a backbone, and what a step holds.

    Attributes:
        backbone: short name.
        source: file of the public data.
        passages: give the annotators' evidence with the question (qa-feedback alone).
        responses, pairs: of an element, each as many.
        elements: prompts of a step.
        max_tokens: of an item; longer prompts are cut on the left, for every contender.
        wanted: pairs a second over TRL's.
        steps, rounds: of a measurement.
    """

    backbone: str
    source: str
    passages: bool
    responses: int
    pairs: int
    elements: int
    max_tokens: int
    wanted: float
    steps: int = 8
    rounds: int = 5

    @property
    def pairs_of_a_step(self) -> int:
        """Pairs of all elements of a step."""
        return self.pairs * self.elements


WORKLOADS = {
    "minilm, convarg": Workload("minilm", "convarg.jsonl.gz", False, 8, 16, 1, 256, 1.3),
    "smollm2, hh-harmless": Workload("smollm2", "hh-harmless.jsonl.gz", False, 2, 1, 4, 512, 2.0),
    "smollm2, qa-feedback with passages": Workload("smollm2", "qa-feedback.jsonl.gz", True, 4, 6, 1, 512, 2.0, 4, 3),
}


def untrained(workload: Workload, run: Path, bf16: bool) -> tuple[TrainingConfig, Checkpoint]:
    """The model before training, and what Assay trains it with: one epoch, without a warm-up."""
    config = TrainingConfig(
        run=run,
        progress=False,
        data=DataConfig(train=("public",)),
        model=ModelConfig(backbone=workload.backbone, max_tokens=workload.max_tokens),
        optimiser=OptimiserConfig(
            batch_elements=workload.elements,
            epochs=1,
            max_responses=workload.responses,
            bf16=bf16,
            patience=0,
            warmup=0,
        ),
    )
    return config, new_checkpoint(config, PreparedData(Splits(_records(workload), [], []), "0" * 64, {}))


def examples_of(workload: Workload, steps: int, checkpoint: Checkpoint, seed: int = 0) -> list[Example]:
    """Elements of `steps` steps, in order, each with `workload.pairs` decided pairs and no others.

    Raises:
        ValueError: the data have not so many.
    """
    generator = random.Random(seed)
    wanted = steps * workload.elements
    found: list[PreferenceRecord] = []
    records = _records(workload)
    for record in generator.sample(records, len(records)):
        found += _elements(record, workload, generator)
        if len(found) >= 4 * wanted:  # of several prompts, not all of one
            break
    if len(found) < wanted:
        raise ValueError(f"{workload.source} has {len(found)} elements of {workload.pairs} pairs, not {wanted}")
    return encode_records(generator.sample(found, wanted), checkpoint.formatter, progress=False)


def _elements(record: PreferenceRecord, workload: Workload, generator: random.Random) -> Iterator[PreferenceRecord]:
    decided = [judgement for judgement in record.judgements if judgement.soft_label != 0.5]
    if not decided:
        return
    for number, group in enumerate(compared_groups(decided, workload.responses, generator)):
        place = {response: new for new, response in enumerate(group)}
        among = [judgement for judgement in decided if judgement.i in place and judgement.j in place]
        if len(group) != workload.responses or len(among) < workload.pairs:
            continue
        # Winner and loser alone: TRL knows no shares of votes.
        judgements = [
            judgement.model_copy(
                update={
                    "i": place[judgement.i], "j": place[judgement.j], "ties": 0.0, "annotations": None,
                    "i_wins": float(judgement.soft_label > 0.5), "j_wins": float(judgement.soft_label < 0.5),
                }
            )
            for judgement in generator.sample(among, workload.pairs)
        ]  # fmt: skip
        yield record.model_copy(
            update={
                "id": f"{record.id}/{number}",
                "responses": [record.responses[response] for response in group],
                "judgements": judgements,
            }
        )


def _records(workload: Workload) -> list[PreferenceRecord]:
    path = public_sets.data_folder() / workload.source
    records = public_sets.PUBLIC_SETS[workload.source](path)
    return list(_with_passages(records, path)) if workload.passages else records


def _with_passages(records: list[PreferenceRecord], path: Path) -> Iterator[PreferenceRecord]:
    """The questions with the evidence that the annotators saw before them: thousands of characters."""
    rows: dict[str, Any] = {row.columns["id"]: row.columns for row in raw_rows(path) if isinstance(row.columns, dict)}
    for record in records:
        evidence = "\n\n".join(rows[record.id]["passages"])
        yield record.model_copy(update={"prompt": f"{evidence}\n\n{record.prompt}"})
