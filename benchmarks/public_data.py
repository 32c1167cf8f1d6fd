"""Train MiniLM on real human preferences and say how good it is: convarg, and four sets of LLM responses.

    python -m benchmarks.public_data [--quick] [--only convarg|responses]

convarg: the training debates are all but every fourth in sorted order; training sees the votes, the test the strict
labels. Responses: hh-harmless, qa-feedback, pandalm and autoj together, a tenth of their prompts held out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import RESULTS, Result, Target
from service.bundle.calibration import Calibration
from training.checkpoint import Checkpoint
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import Splits, public_sets, split
from training.evaluation.evaluate import Evaluation, calibrate, evaluate
from training.examples import encode_records
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


def response_splits(folder: Path, share: float) -> Splits:
    """The four sets of LLM responses, a tenth of the prompts held out; `share` of the rest is trained on."""
    records = [
        *public_sets.hh_harmless(folder / "hh-harmless.jsonl.gz"),
        *public_sets.qa_feedback(folder / "qa-feedback.jsonl.gz"),
        *public_sets.pandalm(folder / "pandalm.jsonl.gz"),
        *public_sets.autoj(folder / "autoj.jsonl.gz"),
    ]
    whole = split(records, (0.85, 0.05, 0.1), SEED)
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


def train_and_test(splits: Splits, optimiser: OptimiserConfig, max_tokens: int) -> tuple[Evaluation, dict[str, Any]]:
    """Train on one split; returns the evaluation of the test part and what else should be on record."""
    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig(max_tokens=max_tokens)
        checkpoint, calibration, result = train_checkpoint(splits, optimiser, model, Path(folder))
        test = encode_records(splits.test, checkpoint.formatter, False)
        scores = score_examples(checkpoint.model, test, model.block_queries)
        by_source = {
            source: evaluate(*_only(test, scores, source), calibration.temperature).as_json()
            for source in sorted({example.record.source for example in test})
        }
    return evaluate(test, scores, calibration.temperature), {
        "optimiser": optimiser.model_dump(mode="json"),
        "max_tokens": max_tokens,
        "prompts": {name: len(part) for name, part in vars(splits).items()},
        "updates": result.updates,
        "validation_loss": result.best_validation_loss,
        "by_source": by_source,
    }


def _only(examples: Sequence[Any], scores: Sequence[Any], source: str) -> tuple[list[Any], list[Any]]:
    chosen = [(e, s) for e, s in zip(examples, scores, strict=True) if e.record.source == source]
    return [e for e, _ in chosen], [s for _, s in chosen]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def convarg(folder: Path, quick: bool) -> tuple[list[Target], dict[str, Any]]:
    """Figures and targets of the debate arguments."""
    optimiser = OptimiserConfig(
        learning_rate=5e-5, epochs=4 if quick else 12, batch_elements=4, max_responses=8, patience=0, seed=SEED
    )
    evaluation, record = train_and_test(convarg_splits(folder), optimiser, max_tokens=256)
    accuracy, matched, rule = evaluation.accuracy, evaluation.length_matched, evaluation.length_rule_matched
    assert matched is not None
    assert rule is not None
    targets = [
        Target(
            "convarg strict, accuracy on held-out debate sides",
            f"interval above the length rule, {_percent(evaluation.length_rule.value)}",
            f"{_percent(accuracy.value)} ({_percent(accuracy.low)} to {_percent(accuracy.high)})",
            accuracy.low > evaluation.length_rule.value,
        ),
        Target(
            "convarg strict, pairs of similar length",
            f"interval above the length rule there, {_percent(rule.value)}",
            f"{_percent(matched.value)} ({_percent(matched.low)} to {_percent(matched.high)})",
            matched.low > rule.value,
        ),
    ]
    return targets, {"evaluation": evaluation.as_json(), **record}


def responses(folder: Path, quick: bool) -> tuple[list[Target], dict[str, Any]]:
    """Figures and targets of the LLM responses; prompts over 256 tokens are cut, and the share is on record."""
    optimiser = OptimiserConfig(
        learning_rate=3e-5, epochs=1, batch_elements=16, patience=0, evaluations_per_epoch=2, seed=SEED
    )
    splits = response_splits(folder, 0.125 if quick else 1.0)
    evaluation, record = train_and_test(splits, optimiser, max_tokens=256)
    accuracy = evaluation.accuracy
    target = Target(
        "hh-harmless + qa-feedback + pandalm + autoj, accuracy on held-out prompts",
        f"interval above the length rule, {_percent(evaluation.length_rule.value)}",
        f"{_percent(accuracy.value)} ({_percent(accuracy.low)} to {_percent(accuracy.high)})",
        accuracy.low > evaluation.length_rule.value,
    )
    return [target], {"evaluation": evaluation.as_json(), **record}


PARTS = {"convarg": convarg, "responses": responses}


def run(part: str, quick: bool) -> Result:
    """Train and test on one of `PARTS`.

    Raises:
        FileNotFoundError: the public data are not there.
    """
    folder = public_sets.data_folder()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the public preference data are not there; set ASSAY_DATA to their folder")
    targets, figures = PARTS[part](folder, quick)
    return Result(f"public_data_{part}", quick, SEED, targets, figures)


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer epochs and an eighth of the responses")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    arguments = parser.parse_args()
    for part in [arguments.only] if arguments.only else PARTS:
        result = run(part, arguments.quick)
        result.report()
        print(result.write().relative_to(RESULTS.parent.parent))


if __name__ == "__main__":
    main()
