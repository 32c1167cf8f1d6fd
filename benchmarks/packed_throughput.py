"""Eight responses a prompt: the packed layout against padded rows, in one process, interleaved.

    python -m benchmarks.packed_throughput [--quick]

SmolLM2-135M in fp32 under ONNX Runtime's CPU provider. *Packed* is the graph that Assay serves, fed with a layout.
*Padded* is the same weights exported the ordinary way: (rows, length) with an attention mask, every response a whole
row with its prompt. *Unshared* is Assay's graph with sharing turned off, which tells layout and sharing apart.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn
from torch.export import Dim

from benchmarks.result import Result, Target, refuse_uncommitted
from service.bundle.layout import Family, IntArray, Pooling, plan_layout
from training.backbone import load_backbone
from training.export.graph import export_graph
from training.model import RewardModel

SEED = 0
CASES = {"prompt 256, response 128": (8, 256, 128, 2.0), "prompt 512, response 64": (8, 512, 64, 4.0)}
"""Responses, prompt tokens, response tokens, and the ratio wanted."""
BLOCK_QUERIES = 64


class PaddedRewardModel(nn.Module):
    """What everybody else serves: rows padded to one length, the score read at the last real token."""

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(rows, length) int64 twice -> (rows,) float32."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = attention_mask.sum(1) - 1
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        rewards: torch.Tensor = self.head(hidden[rows, last])[:, 0]
        return rewards


def export_padded(model: RewardModel, path: Path) -> None:
    """Export the ordinary graph with free rows and length, transformers' own attention."""
    model.backbone.set_attn_implementation("sdpa")
    rows, length = Dim("rows", min=1), Dim("length", min=2)
    example = torch.ones((3, 17), dtype=torch.int64)
    with torch.no_grad():
        program = torch.onnx.export(
            PaddedRewardModel(model).eval(),
            (example, example.clone()),  # one tensor twice would become one input
            dynamo=True,
            dynamic_shapes={"input_ids": {0: rows, 1: length}, "attention_mask": {0: rows, 1: length}},
            input_names=["input_ids", "attention_mask"],
            output_names=["rewards"],
        )
        assert program is not None
        program.save(str(path), external_data=True)


def session(path: Path, threads: int) -> ort.InferenceSession:
    """A CPU session, the same for all arms."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(quick: bool) -> Result:
    """Measure each case in turn: packed, padded, unshared, packed, ..."""
    rounds = 3 if quick else 7
    torch.manual_seed(SEED)
    generator = np.random.default_rng(SEED)
    backbone = load_backbone("smollm2")
    model = RewardModel(backbone.model, Family.CAUSAL, Pooling.LAST).eval()
    vocabulary = backbone.tokenizer.vocabulary_size
    with tempfile.TemporaryDirectory() as folder:
        export_graph(model, Path(folder, "packed.onnx"), BLOCK_QUERIES)
        export_padded(model, Path(folder, "padded.onnx"))
        packed_graph = session(Path(folder, "packed.onnx"), 2)
        padded_graph = session(Path(folder, "padded.onnx"), 2)

        def packed(sequences: list[IntArray], share: bool = True) -> Any:
            layout = plan_layout(sequences, Family.CAUSAL, block_queries=BLOCK_QUERIES, share_prefixes=share)
            return packed_graph.run(None, layout.arrays())[0][:, 0]

        def padded(sequences: list[IntArray]) -> Any:
            rows = np.stack(sequences)  # equal lengths here: the padded arm's best case
            return padded_graph.run(None, {"input_ids": rows, "attention_mask": np.ones_like(rows)})[0]

        arms: dict[str, Callable[[list[IntArray]], Any]] = {
            "packed": packed,
            "padded": padded,
            "unshared": lambda sequences: packed(sequences, share=False),
        }
        figures, targets = {}, []
        for name, (responses, prompt, response, wanted) in CASES.items():
            stem = generator.integers(0, vocabulary, prompt, dtype=np.int64)
            tails = generator.integers(0, vocabulary, (responses, response), dtype=np.int64)
            sequences = [np.concatenate([stem, tail]) for tail in tails]
            scores = {arm: score(sequences) for arm, score in arms.items()}
            seconds: dict[str, list[float]] = {arm: [] for arm in arms}
            for _ in range(rounds):
                for arm, score in arms.items():
                    began = time.perf_counter()
                    score(sequences)
                    seconds[arm].append(time.perf_counter() - began)
            ratios = [b / a for a, b in zip(seconds["packed"], seconds["padded"], strict=True)]
            ratio = statistics.median(ratios)
            figures[name] = {
                "responses_per_second": {
                    arm: {
                        "median": responses / statistics.median(times),
                        "least": responses / max(times),
                        "most": responses / min(times),
                    }
                    for arm, times in seconds.items()
                },
                "ratio_packed_to_padded": {"median": ratio, "least": min(ratios), "most": max(ratios)},
                "largest_score_difference": float(np.abs(scores["packed"] - scores["padded"]).max()),
            }
            targets.append(
                Target(
                    f"packed to padded, 8 responses, {name}",
                    f"at least {wanted:g}x",
                    f"{ratio:.2f}x ({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)",
                    ratio >= wanted,
                )
            )
            difference = float(np.abs(scores["packed"] - scores["padded"]).max())
            targets.append(
                Target(
                    f"packed and padded scores agree, {name}",
                    "within 1e-04",
                    f"{difference:.1e}",
                    difference <= 1e-4,
                    True,
                )
            )
    return Result("packed_throughput", quick, SEED, targets, figures)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    quick = parser.parse_args().quick
    refuse_uncommitted(quick)
    result = run(quick)
    result.publish()


if __name__ == "__main__":
    main()
