"""Training steps on a GPU: attention over blocks, FlexAttention, and padded rows, with the same weights and texts.

    python -m benchmarks.training.attention                      # on a machine with a GPU
    python -m benchmarks.training.attention --device cpu --quick # that the script runs at all, without FlexAttention

A step is forward and backward of a sum of scores in bfloat16; the three take turns, round after round. Targets are of
FlexAttention to blocks and to padded rows, and that scores and the norm of a gradient agree in float32.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import MODELS, SEED, WORKLOADS, Subject, load, texts, timed
from benchmarks.result import Result, Target, refuse_uncommitted
from benchmarks.training.padded import PaddedRewardModel
from service.bundle.layout import plan_layout
from training.attention import ATTENTION_NAME
from training.examples import layout_tensors

SAME = 1e-3
"""Relative difference of the gradient's norm in float32."""


def measure(subject: Subject, device: torch.device, rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """All workloads of one model."""
    model = subject.model.to(device)
    longest = min(2048, model.backbone.config.max_position_embeddings)
    figures: dict[str, Any] = {}
    targets = []
    for workload in WORKLOADS if device.type == "cuda" else list(WORKLOADS)[:1]:
        sequences = texts(workload, subject.vocabulary, longest)
        layout = plan_layout(sequences, model.family)
        tensors = {name: tensor.to(device) for name, tensor in layout_tensors(layout).items()}
        rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s) for s in sequences], batch_first=True).to(device)
        mask = torch.zeros_like(rows)
        for place, sequence in enumerate(sequences):
            mask[place, : len(sequence)] = 1
        arms: dict[str, Callable[[], float]] = {"blocks": partial(_packed, subject, tensors, False)}
        if device.type == "cuda":
            arms["flex"] = partial(_packed, subject, tensors, True)
        arms["padded"] = partial(_padded, subject, rows, mask)
        with torch.autocast(device.type, torch.float32, enabled=False):
            norms = {name: arm() for name, arm in arms.items()}
        with torch.autocast(device.type, torch.bfloat16):
            seconds = timed(arms, device, rounds)
        worst = max(abs(norm / norms["blocks"] - 1) for norm in norms.values())
        figures[workload] = {
            "gradient_norms": norms,
            "seconds": seconds,
            "tokens": layout.tokens,
            "padded": rows.numel(),
        }
        targets.append(
            Target(
                f"{subject.name}, {workload}: gradients agree", f"within {SAME:g}", f"{worst:.1e}", worst <= SAME, True
            )
        )
        for other in ("blocks", "padded") if "flex" in seconds else ():
            ratios = [theirs / mine for mine, theirs in zip(seconds["flex"], seconds[other], strict=True)]
            figure = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            held = statistics.median(ratios) >= 1
            targets.append(
                Target(f"{subject.name}, {workload}: FlexAttention over {other}", "at least 1x", figure, held)
            )
    return figures, targets


def _packed(subject: Subject, tensors: dict[str, torch.Tensor], flexible: bool) -> float:
    subject.model.flexible = flexible
    return _step(subject, lambda: subject.model(**tensors))


def _padded(subject: Subject, rows: torch.Tensor, mask: torch.Tensor) -> float:
    """The same module over rows; attention is set at each call."""
    try:
        padded = PaddedRewardModel(subject.model)
        return _step(subject, lambda: padded(rows, mask).logits)
    finally:
        subject.model.backbone.set_attn_implementation(ATTENTION_NAME)


def _step(subject: Subject, scores: Callable[[], torch.Tensor]) -> float:
    """The norm of the gradient of the sum of the scores."""
    subject.model.zero_grad(set_to_none=True)
    scores().float().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in subject.model.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only shows that it runs")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="which to measure")
    parser.add_argument("--quick", action="store_true", help="2 rounds instead of 10")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    device = torch.device(arguments.device)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    targets: list[Target] = []
    for subject in map(load, arguments.models):
        figures[subject.name], found = measure(subject, device, 2 if arguments.quick else 10)
        targets += found
    Result(f"training_attention_{arguments.device}", arguments.quick, SEED, targets, figures).publish()


if __name__ == "__main__":
    main()
