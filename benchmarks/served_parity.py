"""SmolLM2-135M trained on real preferences, exported and served: HTTP scores against PyTorch fp32 scores.

    python -m benchmarks.served_parity [--quick]

500 real prompt/response pairs, sent one by one, shuffled in batches of mixed prompts, and concurrently; every score
must be within 1e-4 of what the PyTorch module gives for that pair alone.
"""

import argparse
import asyncio
import itertools
import random
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from assay_client import AsyncRewardClient
from assay_client.types import Prompt
from benchmarks.accuracy.train import train_checkpoint
from benchmarks.result import Result, Target, refuse_uncommitted
from benchmarks.server import serving
from training.checkpoint import Checkpoint
from training.config import ModelConfig, OptimiserConfig, TrainingConfig
from training.data import PreferenceRecord, Splits, public_sets, split
from training.encoding import Example, encode_records
from training.evaluation.evaluate import evaluate
from training.export.bundle import export_bundle
from training.scoring import score_examples

SEED = 0
TOLERANCE = 1e-4
MAX_TOKENS = 320


def subset(folder: Path, prompts: int) -> Splits:
    """Prompts of pandalm and qa-feedback, whose texts are short enough for two cores."""
    records = [
        *public_sets.pandalm(folder / "pandalm.jsonl.gz"),
        *public_sets.qa_feedback(folder / "qa-feedback.jsonl.gz"),
    ]
    whole = split(records, (0.7, 0.05, 0.25), SEED)
    train = random.Random(SEED).sample(whole.train, len(whole.train))
    return Splits(train[:prompts], whole.validation[:12], whole.test)


def score_alone(checkpoint: Checkpoint, examples: list[Example]) -> list[npt.NDArray[np.float64]]:
    """The PyTorch fp32 score of every item by itself; for each example (responses,)."""
    block_queries = checkpoint.description.block_queries
    return [
        np.concatenate(
            [
                score_examples(checkpoint.model, [Example(example.record, (item,))], block_queries)[0]
                for item in example.items
            ]
        )
        for example in examples
    ]


def holding(examples: list[Example], items: int) -> list[Example]:
    """The first examples that hold at least `items` items."""
    before = itertools.accumulate((len(example.items) for example in examples), initial=0)
    return [example for example, so_far in zip(examples, before, strict=False) if so_far < items]


def pairs_of(records: list[PreferenceRecord], count: int) -> list[tuple[Prompt, str]]:
    """The first `count` pairs of prompt and response."""
    prompts: list[Prompt] = [
        record.prompt if isinstance(record.prompt, str) else [message.model_dump() for message in record.prompt]
        for record in records
    ]
    return [
        (prompt, response) for prompt, record in zip(prompts, records, strict=True) for response in record.responses
    ][:count]


async def served_scores(url: str, pairs: list[tuple[Prompt, str]]) -> dict[str, list[float]]:
    """Scores of all pairs over HTTP, in three compositions, each in the order of `pairs`."""
    shuffled = list(range(len(pairs)))
    random.Random(SEED).shuffle(shuffled)
    async with AsyncRewardClient(url, timeout=900, max_concurrency=128) as client:
        alone = [
            (await client.score_pairs([pair], truncate="prompt_left", allow_empty=True)).scores[0] for pair in pairs
        ]
        mixed: list[float] = [0.0] * len(pairs)
        for start in range(0, len(pairs), 64):
            part = shuffled[start : start + 64]
            scores = await client.score_pairs(
                [pairs[place] for place in part], truncate="prompt_left", allow_empty=True
            )
            for place, score in zip(part, scores, strict=True):
                mixed[place] = score
        parts = [shuffled[start : start + 7] for start in range(0, len(pairs), 7)]
        replies = await asyncio.gather(
            *(
                client.score_pairs([pairs[place] for place in part], truncate="prompt_left", allow_empty=True)
                for part in parts
            )
        )
        concurrent: list[float] = [0.0] * len(pairs)
        for part, reply in zip(parts, replies, strict=True):
            for place, score in zip(part, reply, strict=True):
                concurrent[place] = score
    return {"one by one": alone, "64 mixed prompts a call": mixed, f"{len(parts)} calls of 7 at once": concurrent}


def run(quick: bool) -> Result:
    """Train, export, serve, compare."""
    folder = public_sets.data_folder()
    splits = subset(folder, 16 if quick else 40)
    count = 120 if quick else 500
    with tempfile.TemporaryDirectory() as work:
        optimiser = OptimiserConfig(learning_rate=2e-5, epochs=1, batch_elements=4, patience=0, seed=SEED)
        model = ModelConfig(backbone="smollm2", max_tokens=MAX_TOKENS)
        config = TrainingConfig(run=Path(work, "run"), progress=False, model=model, optimiser=optimiser)
        checkpoint, calibration, _ = train_checkpoint(splits, config)
        test = encode_records(splits.test, checkpoint.formatter, False)
        enough = holding([example for example in test if not any(item.removed for item in example.items)], count)
        alone = score_alone(checkpoint, enough)
        evaluation = evaluate(enough, alone, calibration.temperature)
        pairs = pairs_of([example.record for example in enough], count)
        reference = np.concatenate(alone)[: len(pairs)]
        export_bundle(checkpoint, calibration, evaluation, Path(work, "bundle"))
        del checkpoint
        with serving(Path(work, "bundle"), precision="fp32") as url:
            served = asyncio.run(served_scores(url, pairs))
    errors = {name: float(np.abs(np.array(scores) - reference).max()) for name, scores in served.items()}
    worst = max(errors.values())
    target = Target(
        f"HTTP score against PyTorch fp32, {len(pairs)} real pairs, {len(served)} batch compositions",
        f"within {TOLERANCE:.0e}",
        f"largest difference {worst:.1e}",
        worst <= TOLERANCE and len(pairs) == count,
    )
    spread = float(np.std(reference))
    apart = Target(
        "the compared scores differ from each other",
        f"standard deviation at least {100 * TOLERANCE:g}",
        f"{spread:.3f}",
        spread >= 100 * TOLERANCE,
        detail=True,
    )
    figures = {
        "largest_difference": errors,
        "pairs": len(pairs),
        "score_spread": spread,
        "training_prompts": len(splits.train),
        "test_accuracy": evaluation.as_json()["accuracy"],
        "length_rule": evaluation.as_json()["length_rule"],
    }
    return Result("served_parity", quick, SEED, [target, apart], figures)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 training prompts and 120 pairs")
    quick = parser.parse_args().quick
    refuse_uncommitted(quick)
    result = run(quick)
    result.publish()


if __name__ == "__main__":
    main()
