"""Where the time of a training step goes: kernels by kind, and what share of the processor's peak is reached.

    python -m benchmarks.training.profile [--quick] [--only WORKLOAD]

Assay's own loop trains a few steps, in turn as it is and with torch's fused kernel for the gradient of attention too;
then once more under torch's profiler. The products of a step are counted as torch runs them (`FlopCounterMode`); the
peak is that of the fastest product of two square bf16 matrices, in the same process. Keys that a query does not see,
and the ends of blocks, are computed too, and count. Needs the public data; ASSAY_DATA names their folder.
"""

import logging
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.result import Result, Row, publish_parts
from benchmarks.training.contender import Timer, assay
from benchmarks.training.run import PARTS, WARM_UP
from benchmarks.training.work import WORKLOADS, examples_of, untrained
from training import attention
from training.precision import computes_bf16

PEAK_SIZES, PEAK_ROUNDS = (1024, 2048, 4096), 5
ROUNDS = 2
KINDS = {
    "products of linear layers": ("aten::mm", "aten::addmm", "mkldnn"),
    "products of attention": ("aten::bmm", "aten::baddbmm", "scaled_dot_product", "flash_attention"),
    "softmax": ("softmax",),
    "optimiser and norm of the gradient": ("adamw", "linalg_vector_norm", "foreach"),
    "norms and activations": ("layer_norm", "rms_norm", "gelu", "silu", "aten::pow", "rsqrt", "aten::mean"),
    "casts and copies": ("aten::copy_", "aten::cat", "aten::clone"),
    "gathers and their gradients": ("index", "scatter", "gather", "embedding"),
    "sums, products and fills of elements": (
        "aten::mul", "aten::add", "aten::sum", "aten::fill_", "aten::zero_", "aten::neg", "aten::div", "aten::sub"
    ),
}  # fmt: skip
"""What a kernel is, by what its name holds; the first that fits."""
REST = "all else, Python among it"


class FlopsOfSteps(Timer):
    """Floating-point operations of every step."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.flops: list[int] = []
        self._counter = counter

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """See `Timer`."""
        super().on_step_end(args, state, control, **keywords)
        self.flops.append(self._counter.get_total_flops() - sum(self.flops))


class Profiler(Timer):
    """Kernels of the steps after the first ones, and the seconds from the first of these to the end of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.wall = 0.0
        self._profiler = profile(activities=[ProfilerActivity.CPU])
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        """See `Timer`."""
        if len(self.seconds) == WARM_UP:
            self._profiler.start()
            self._started = time.perf_counter()
        super().on_step_begin(args, state, control, **keywords)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All steps are done."""
        self.wall = time.perf_counter() - self._started
        self._profiler.stop()
        for event in self._profiler.key_averages():
            self.kernels[event.key] += event.self_cpu_time_total / 1e6


def kind_of(kernel: str) -> str:
    """Of a kernel by its name."""
    name = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def peak_flops() -> float:
    """Of the fastest product of square matrices, in bf16 where the processor computes in it."""
    dtype = torch.bfloat16 if computes_bf16() else torch.float32
    best = 0.0
    for size in PEAK_SIZES:
        square = torch.randn(size, size).to(dtype)
        for _ in range(PEAK_ROUNDS):
            began = time.perf_counter()
            torch.matmul(square, square)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def measure(part: str, quick: bool) -> Result:
    """One workload."""
    name = PARTS[part]
    workload = WORKLOADS[name]
    steps = 3 if quick else workload.steps
    logging.disable(logging.WARNING)
    peak = peak_flops()

    def train(timer: Timer) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            config, checkpoint = untrained(workload, Path(folder), computes_bf16())
            assay(config, checkpoint, examples_of(workload, steps, checkpoint), timer)
        return timer.seconds

    seconds: list[float] = []
    fused: list[float] = []
    for _ in range(1 if quick else ROUNDS):
        seconds += train(Timer())[WARM_UP:]
        with patch.object(attention, "is_faster", return_value=False):
            fused += train(Timer())[WARM_UP:]
    with FlopCounterMode(display=False) as counter:
        counting = FlopsOfSteps(counter)
        train(counting)
    profiler = Profiler()
    train(profiler)
    flops = statistics.mean(counting.flops[WARM_UP:])
    step = statistics.mean(seconds)  # steps are of several lengths, and so are their products
    shares = dict.fromkeys([*KINDS, REST], 0.0)
    for kernel, spent in profiler.kernels.items():
        shares[kind_of(kernel)] += spent / profiler.wall
    shares[REST] += max(0.0, 1 - sum(shares.values()))  # what no kernel accounts for
    products = shares["products of linear layers"] + shares["products of attention"]
    shown = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(shares.items(), key=lambda item: -item[1]))
    figures: dict[str, Any] = {
        "seconds_of_steps": seconds,
        "seconds_of_steps_with_the_fused_kernel": fused,
        "flops_of_a_step": flops,
        "peak_flops_per_s": peak,
        "of_peak": flops / step / peak,
        "products_of_their_peak": flops / (products * step) / peak,
        "shares": shares,
        "slowest_kernels": dict(profiler.kernels.most_common(25)),
    }
    rows = [
        Row(
            f"training, {name}: a step of {workload.pairs_of_a_step} pairs",
            f"{step:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {flops / 1e9:.0f} GFLOP: "
            f"{figures['of_peak']:.0%} of the peak of {peak / 1e9:.0f} GFLOP/s; with torch's fused kernel for the "
            f"gradient of attention {statistics.mean(fused):.2f} s",
        ),
        Row(f"training, {name}: where the time of a step goes", shown),
    ]
    return Result(f"training_profile_{part}", quick, 0, [], figures, rows)


if __name__ == "__main__":
    publish_parts(__doc__, PARTS, measure, quick="three steps")
