"""Train MiniLM on real human preferences and say how good it is: convarg, and four sets of LLM responses.

    python -m benchmarks.public_data [--quick] [--only convarg|convarg_debates|responses]

convarg: every fourth debate side in sorted order is the test, as prescribed. A debate has two sides, so most test sides
have their debate's other side in training: the question is known, its arguments are not. convarg_debates: every fourth
debate is the test with both of its sides, so that neither is known. Training sees the votes, the test the strict
labels. responses: hh-harmless, qa-feedback, pandalm and autoj together, a tenth of their prompts held out.

An accuracy holds if its interval lies above the length rule, and that of the difference to the rule, taken pair by
pair, above 0. Intervals are bootstrapped over prompts (debate sides).
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.length_rule import Differences, above_length_rule, breakdown, differences_to_length_rule
from benchmarks.result import Result, publish_parts
from service.bundle.calibration import Calibration
from training.checkpoint import Checkpoint
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import Splits, add_up_votes, merge_by_prompt, public_sets, split
from training.encoding import encode_records
from training.evaluation.evaluate import Evaluation, calibrate, evaluate
from training.evaluation.metrics import FEW_CLUSTERS
from training.fit import FitResult, fit
from training.pipeline import new_checkpoint
from training.prepare import PreparedData, hash_records
from training.scoring import score_examples

SEED = 0


def convarg_splits(folder: Path) -> Splits:
    """Every fourth debate side is the test; of the others every eighth chooses the weights."""
    votes = {record.id: record for record in public_sets.convarg(folder / "convarg.jsonl.gz")}
    strict = {record.id: record for record in public_sets.convarg_strict(folder / "convarg.jsonl.gz")}
    sides = sorted(votes)
    test = sides[3::4]
    rest = [side for side in sides if side not in test]
    validation = rest[7::8]
    train = [side for side in rest if side not in validation]
    return Splits([votes[s] for s in train], [votes[s] for s in validation], [strict[s] for s in test])


def debate_splits(folder: Path) -> Splits:
    """Every fourth debate is the test with both sides; of the others every sixth chooses the weights."""
    votes = public_sets.convarg(folder / "convarg.jsonl.gz")
    strict = public_sets.convarg_strict(folder / "convarg.jsonl.gz")
    debates = sorted({record.category or "" for record in votes})
    test = set(debates[3::4])
    validation = set([debate for debate in debates if debate not in test][5::6])
    return Splits(
        [record for record in votes if record.category not in test | validation],
        [record for record in votes if record.category in validation],
        [record for record in strict if record.category in test],
    )


def shared_debates(splits: Splits) -> int:
    """Test sides whose debate is also in training."""
    known = {record.category for record in (*splits.train, *splits.validation)}
    return sum(record.category in known for record in splits.test)


def response_splits(folder: Path, share: float) -> Splits:
    """The four sets of LLM responses, a tenth of the prompts held out; `share` of the rest is trained on."""
    records = [
        *public_sets.hh_harmless(folder / "hh-harmless.jsonl.gz"),
        *public_sets.qa_feedback(folder / "qa-feedback.jsonl.gz"),
        *public_sets.pandalm(folder / "pandalm.jsonl.gz"),
        *public_sets.autoj(folder / "autoj.jsonl.gz"),
    ]
    whole = split(add_up_votes(merge_by_prompt(records)), (0.85, 0.05, 0.1), SEED)
    return Splits(whole.train[:: round(1 / share)], whole.validation, whole.test)


def train_checkpoint(
    splits: Splits, optimiser: OptimiserConfig, model: ModelConfig, run: Path
) -> tuple[Checkpoint, Calibration, FitResult]:
    """Train on ready-made splits; returns the model, its calibration on the validation part, and how it went."""
    config = TrainingConfig(
        run=run, data=DataConfig(train=("public",)), model=model, optimiser=optimiser, progress=False
    )
    records = [*splits.train, *splits.validation, *splits.test]
    checkpoint = new_checkpoint(config, PreparedData(splits, hash_records(records), {}))
    train, validation = (
        encode_records(part, checkpoint.formatter, False) for part in (splits.train, splits.validation)
    )
    result = fit(checkpoint.model, train, validation, config)
    calibration = calibrate(validation, score_examples(checkpoint.model, validation, model.block_queries))
    return checkpoint, calibration, result


@dataclass(frozen=True)
class Tested:
    """The test part of one split after training: figures of all, of each source, and what else is on record."""

    evaluation: Evaluation
    differences: Differences
    by_source: dict[str, tuple[Evaluation, Differences]]
    record: dict[str, Any]

    def figures(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            **_figures(self.evaluation, self.differences),
            **self.record,
            "by_source": {source: _figures(*figures) for source, figures in self.by_source.items()},
        }


def interval_notes(evaluation: Evaluation, by_source: Mapping[str, Evaluation]) -> list[str]:
    """Over how many clusters each interval was drawn, and that those over few are too narrow."""
    intervals = {"all pairs": evaluation.accuracy, "pairs of similar length": evaluation.length_matched}
    for source, part in by_source.items():
        intervals |= {source: part.accuracy, f"{source}, pairs of similar length": part.length_matched}
    drawn = [(name, interval) for name, interval in intervals.items() if interval is not None]
    notes = [
        "Clusters that the intervals were drawn over: "
        + "; ".join(f"{name} {interval.clusters}" for name, interval in drawn)
        + "."
    ]
    if few := [name for name, interval in drawn if interval.too_narrow]:
        notes.append(f"An interval over fewer than about {FEW_CLUSTERS} clusters is too narrow: here {'; '.join(few)}.")
    return notes


def _figures(evaluation: Evaluation, differences: Differences) -> dict[str, Any]:
    return {"evaluation": evaluation.as_json(), "difference_to_length_rule": asdict(differences)}


def train_and_test(splits: Splits, optimiser: OptimiserConfig, max_tokens: int) -> Tested:
    """Train on one split and test it."""
    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig(max_tokens=max_tokens)
        checkpoint, calibration, result = train_checkpoint(splits, optimiser, model, Path(folder))
        test = encode_records(splits.test, checkpoint.formatter, False)
        scores = score_examples(checkpoint.model, test, model.block_queries)

    def of(source: str | None) -> tuple[Evaluation, Differences]:
        chosen = [(e, s) for e, s in zip(test, scores, strict=True) if source in (None, e.record.source)]
        examples, values = [e for e, _ in chosen], [s for _, s in chosen]
        return evaluate(examples, values, calibration.temperature), differences_to_length_rule(examples, values)

    record = {
        "optimiser": optimiser.model_dump(mode="json"),
        "max_tokens": max_tokens,
        "prompts": {name: len(part) for name, part in vars(splits).items()},
        "updates": result.updates,
        "validation_loss": result.best_validation_loss,
        "judgements_in_first_epoch": [result.judgements_in_first_epoch, result.judgements],
    }
    sources = sorted({example.record.source for example in test})
    return Tested(*of(None), {source: of(source) for source in sources}, record)


def convarg(folder: Path, quick: bool) -> Result:
    """The debate arguments in the prescribed split."""
    splits = convarg_splits(folder)
    note = (
        f"The prescribed convarg split holds out sides of debates: {shared_debates(splits)} of its {len(splits.test)} "
        "test sides have their debate's other side in training. The figures on whole debates have none."
    )
    return _convarg("convarg", "held-out sides (prescribed split, shares debates)", splits, quick, [note])


def convarg_debates(folder: Path, quick: bool) -> Result:
    """The debate arguments with whole debates held out."""
    return _convarg("convarg_debates", "held-out debates (both sides)", debate_splits(folder), quick, [])


def _convarg(part: str, what: str, splits: Splits, quick: bool, notes: list[str]) -> Result:
    optimiser = OptimiserConfig(
        learning_rate=5e-5, epochs=4 if quick else 12, batch_elements=4, max_responses=8, patience=0, seed=SEED
    )
    tested = train_and_test(splits, optimiser, max_tokens=256)
    e, d = tested.evaluation, tested.differences
    assert e.length_matched is not None
    assert e.length_rule_matched is not None
    assert d.matched is not None
    targets = [
        above_length_rule(f"convarg strict, {what}", e.accuracy, e.length_rule, d.every),
        above_length_rule(
            f"convarg strict, {what}, pairs of similar length", e.length_matched, e.length_rule_matched, d.matched
        ),
    ]
    return Result(f"public_data_{part}", quick, SEED, targets, tested.figures(), notes=[*notes, *interval_notes(e, {})])


def responses(folder: Path, quick: bool) -> Result:
    """The LLM responses; prompts over 256 tokens are cut, and the share is on record."""
    optimiser = OptimiserConfig(
        learning_rate=3e-5, epochs=1, batch_elements=16, patience=0, evaluations_per_epoch=2, seed=SEED
    )
    tested = train_and_test(response_splits(folder, 0.125 if quick else 1.0), optimiser, max_tokens=256)
    e, d = tested.evaluation, tested.differences
    name = "hh-harmless + qa-feedback + pandalm + autoj"
    target = above_length_rule(f"{name}, held-out prompts", e.accuracy, e.length_rule, d.every)
    rows = breakdown(name, e, d)[1:]  # the first is the target
    for source, figures in tested.by_source.items():
        rows += breakdown(source, *figures)
    notes = interval_notes(e, {source: part for source, (part, _) in tested.by_source.items()})
    return Result("public_data_responses", quick, SEED, [target], tested.figures(), rows, notes)


PARTS: dict[str, Callable[[Path, bool], Result]] = {
    "convarg": convarg,
    "convarg_debates": convarg_debates,
    "responses": responses,
}
FILES = ("convarg.jsonl.gz", "hh-harmless.jsonl.gz", "qa-feedback.jsonl.gz", "pandalm.jsonl.gz", "autoj.jsonl.gz")


def run(part: str, quick: bool) -> Result:
    """Train and test on one of `PARTS`.

    Raises:
        FileNotFoundError: the public data are not there.
    """
    folder = public_sets.data_folder()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the public preference data are not there; set ASSAY_DATA to their folder")
    return PARTS[part](folder, quick)


if __name__ == "__main__":
    publish_parts(__doc__, PARTS, run, quick="fewer epochs, an eighth of the responses")
