"""The CUDA provider against PyTorch on the same card, and against what the card can do.

    benchmarks/gpu.sh                                   # on a machine with a GPU
    python -m benchmarks.gpu --device cpu --models minilm --quick     # that the script runs at all

For each model: parity of the graph with the float32 module on the CPU, the largest change of a score by its company,
and the speed of several arms on the same texts, interleaved, as a share of what large matrix products reach on the
device: the ONNX graph in each precision that the provider serves; the same module in PyTorch, packed; the backbone in
PyTorch with padded rows and SDPA, prefixes repeated. Beside them, the kernels that take the card's time, and what a
plan costs on the host. A model's figures are written as soon as they are there.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from service.bundle.layout import DEFAULT_BLOCK_QUERIES, Family, IntArray, Pooling, plan_layout
from service.engine.onnx_options import cuda_options
from service.engine.onnx_session import CPU, OnnxSession
from service.engine.providers import PROVIDERS
from service.engine.session import ProviderError
from training.attention import ATTENTION_NAME
from training.backbone import load_backbone
from training.examples import layout_tensors
from training.export.graph import export_graph
from training.export.parity import measure_parity, parity_cases
from training.model import RewardModel

SEED = 0
MODELS = ("minilm", "smollm2", "llama-1b")
LLAMA_1B: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32_000, "max_position_embeddings": 4096,
}  # fmt: skip
WORKLOADS = {"8 x 256 + 128": (8, 256, 128), "64 x 512 + 32": (64, 512, 32), "32 singles": (32, 0, 300)}
"""Responses, shared prompt tokens, response tokens."""


@dataclass(frozen=True)
class Subject:
    """A model to measure: `parameters` are those of its layers, which every token passes."""

    name: str
    model: RewardModel
    vocabulary: int
    parameters: int


def load(name: str) -> Subject:
    """A backbone with a head of known seed; the 1 B shape has random weights."""
    torch.manual_seed(SEED)
    backbone: PreTrainedModel
    if name == "llama-1b":
        backbone, family, vocabulary = LlamaModel(LlamaConfig(**LLAMA_1B)), Family.CAUSAL, LLAMA_1B["vocab_size"]
        backbone.set_attn_implementation(ATTENTION_NAME)
    else:
        loaded = load_backbone(name)
        backbone, family, vocabulary = loaded.model, loaded.family, loaded.tokenizer.vocabulary_size
    pooling = Pooling.LAST if family is Family.CAUSAL else Pooling.MEAN
    model = RewardModel(backbone, family, pooling).eval()
    torch.nn.init.normal_(model.head.weight, std=0.05)
    layers = sum(p.numel() for name, p in backbone.named_parameters() if "embed" not in name)
    return Subject(name, model, vocabulary, layers)


def texts(workload: str, vocabulary: int, longest: int) -> list[IntArray]:
    """Random token sequences of a workload, cut to the model's length."""
    responses, prompt, response = WORKLOADS[workload]
    generator = np.random.default_rng(SEED)
    stem = generator.integers(5, vocabulary, prompt, dtype=np.int64)
    tails = generator.integers(5, vocabulary, (responses, response), dtype=np.int64)
    return [np.concatenate([stem, tail])[-longest:] for tail in tails]


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: the limit on this device."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = timed({"peak": lambda: a @ b}, device, rounds=10)["peak"]
    return 2 * size**3 / min(seconds)


def timed(arms: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm, interleaved, after one run that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def company_error(graph: "Graph", sequences: Sequence[IntArray], family: Family, rounds: int) -> float:
    """Largest change of a score by random company in few shapes, as it is served, from alone in its own shape."""
    generator = np.random.default_rng(SEED)
    run = partial(graph.run, family=family)
    layouts = [plan_layout([sequence], family) for sequence in sequences]
    alone = np.concatenate([graph.session.infer(layout.arrays())[:, 0] for layout in layouts])
    worst = 0.0
    for _ in range(rounds):
        chosen = generator.permutation(len(sequences))[: generator.integers(2, len(sequences) + 1)]
        change = np.abs(run([sequences[i] for i in chosen]) - alone[chosen]).max()
        worst = float(np.maximum(worst, change))  # keeps NaN
    return worst


@dataclass(frozen=True)
class Graph:
    """The exported graph as the server runs it in one precision, and where its time goes."""

    session: OnnxSession
    kernels: dict[str, dict[str, Any]]

    def run(self, sequences: Sequence[IntArray], family: Family) -> Any:
        """Scores (N,)."""
        return self.session.run(plan_layout(sequences, family))[:, 0]


def open_graphs(subject: Subject, device: torch.device, longest: int) -> tuple[list[Graph], list[Target]]:
    """In every precision that the server would try, and whether it runs; bf16 has no kernels on a CPU."""
    provider, settings = ("CUDAExecutionProvider", cuda_options()) if device.type == "cuda" else (CPU, {})
    family, threads = subject.model.family, torch.get_num_threads()
    graphs, targets = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_graph(subject.model, path, DEFAULT_BLOCK_QUERIES)
        for precision in PROVIDERS["cuda"].precisions() if device.type == "cuda" else ("fp16", "fp32"):
            name = f"{subject.name} in {precision}: runs on {provider}"
            try:
                session = OnnxSession(path, family, provider, settings, precision, threads)
            except ProviderError as error:  # the server would try the next one
                targets.append(Target(name, "yes", str(error), False))
                continue
            targets.append(Target(name, "yes", f"nodes {session.placement.nodes}", True))
            layouts = [plan_layout(texts(name, subject.vocabulary, longest), family) for name in WORKLOADS]
            runs = [partial(session.run, session.shaped(layout)) for layout in layouts]
            graphs.append(Graph(session, slowest_kernels(runs) if device.type == "cuda" else {}))
    return graphs, targets


COMPANY_BOUND = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}
"""Largest change of a score by its company; scores spread around 1."""


def measure(
    subject: Subject, device: torch.device, rounds: int, limit: float
) -> tuple[dict[str, Any], list[Target], list[Row]]:
    """All figures of one model."""
    model, family = subject.model, subject.model.family
    longest = min(2048, model.backbone.config.max_position_embeddings)
    graphs, targets = open_graphs(subject, device, longest)
    cases = parity_cases(subject.vocabulary, longest, SEED)
    figures: dict[str, Any] = {}
    rows: list[Row] = []
    for graph in graphs:
        precision = graph.session.precision
        parity = measure_parity(model, graph.session.infer, cases, DEFAULT_BLOCK_QUERIES, "fp32")
        sequences = [s for name in ("mixed lengths", "wide tree") for s in cases[name]]
        company = company_error(graph, sequences, family, rounds)
        figures[precision] = {
            "parity": parity.as_json(), "company_error": company, "kernels": graph.kernels,
            "nodes": graph.session.placement.nodes,
        }  # fmt: skip
        name, bound = f"{subject.name} in {precision}", COMPANY_BOUND[precision]
        if precision == "fp32":
            targets.append(Target(f"{name}: parity", "within 1e-4", f"{parity.max_error:.1e}", parity.failure is None))
        else:
            text = f"{parity.spearman:.5f}, error at most {parity.max_error:.1e}"
            targets.append(
                Target(f"{name}: rank correlation with fp32", "at least 0.99", text, (parity.spearman or 0) >= 0.99)
            )
        targets.append(
            Target(f"{name}: company changes a score", f"within {bound:.0e}", f"{company:.1e}", company <= bound)
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    on_device = model.to(device, dtype)
    on_device.head.float()
    for workload in WORKLOADS:
        sequences = texts(workload, subject.vocabulary, longest)
        layout = plan_layout(sequences, family)
        tensors = {name: tensor.to(device) for name, tensor in layout_tensors(layout).items()}
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s) for s in sequences], batch_first=True).to(device)
        arms: dict[str, Callable[[], Any]] = {
            **{
                f"onnx {graph.session.precision}": partial(graph.session.run, graph.session.shaped(layout))
                for graph in graphs
            },
            "torch packed": partial(on_device, **tensors),
            "torch padded": partial(_padded, on_device.backbone, padded),
        }
        with torch.inference_mode():
            seconds = timed(arms, device, rounds)
        planning = timed({"plan": partial(plan_layout, sequences, family)}, torch.device("cpu"), rounds)["plan"]
        figures[workload] = {
            "tokens": layout.tokens,
            "plan_s": statistics.median(planning),
            "padded_tokens": padded.numel(),
            "arms": {
                name: {
                    # The graph's arrays come from the host each time; the modules' stay on the card.
                    "dtype": name.removeprefix("onnx ") if "onnx" in name else str(dtype).removeprefix("torch."),
                    "copies_inputs": "onnx" in name,
                    "median_s": statistics.median(times), "least_s": min(times), "most_s": max(times),
                    "responses_per_s": len(sequences) / statistics.median(times),
                    "share_of_peak": 2 * subject.parameters * layout.tokens / statistics.median(times) / limit,
                }
                for name, times in seconds.items()
            },
        }  # fmt: skip
        rows += speeds(f"{subject.name}, {workload}", figures[workload])
    return figures, targets, rows


def speeds(title: str, figures: Mapping[str, Any]) -> list[Row]:
    """What each arm does, in words: distinct tokens a second, and how that compares with PyTorch."""
    arms = figures["arms"]
    rows = []
    for name, arm in arms.items():
        text = f"{figures['tokens'] / arm['median_s']:,.0f} tokens/s, {arm['share_of_peak']:.0%} of the peak"
        if "onnx" in name:
            others = [other for other in arms if "torch" in other]
            text += "".join(f", {arms[other]['median_s'] / arm['median_s']:.2f}x {other}" for other in others)
        rows.append(Row(f"{title}: {name}", text))
    return rows


def _padded(backbone: PreTrainedModel, rows: torch.Tensor) -> Any:
    """The backbone as everybody runs it. Attention is set at each call: both arms are one module."""
    backbone.set_attn_implementation("sdpa")
    try:
        return backbone(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
    finally:
        backbone.set_attn_implementation(ATTENTION_NAME)


def slowest_kernels(runs: Sequence[Callable[[], Any]], count: int = 12) -> dict[str, dict[str, Any]]:
    """Share of the card's time by kernel over `runs`, each warmed up before.

    By CUPTI, which sees every kernel of the process; ONNX Runtime's own profile sees the host alone.
    """
    for run in runs:
        run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for run in runs:
            run()
        torch.cuda.synchronize()
    spent = Counter({event.key: event.self_device_time_total for event in profile.key_averages()})
    total = sum(spent.values()) or 1
    return {name: {"share": time / total, "ms": time / 1e3} for name, time in spent.most_common(count)}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only shows that it runs")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="which to measure")
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    device = torch.device(arguments.device)
    peak_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    limit = peak(device, peak_dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    figures: dict[str, Any] = {"device": name, "peak_flops": limit, "peak_dtype": str(peak_dtype)}
    targets: list[Target] = []
    rows: list[Row] = []
    for subject in map(load, arguments.models):
        figures[subject.name], held, said = measure(subject, device, 3 if arguments.quick else 15, limit)
        targets += held
        rows += said
        Result(f"gpu_{arguments.device}", arguments.quick, SEED, targets, figures, rows).publish()


if __name__ == "__main__":
    main()
