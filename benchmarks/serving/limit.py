"""How far the engine is from the limit of the machine, and where the rest goes.

    python -m benchmarks.serving.limit [--quick] [--model smollm2|minilm] [--provider P] [--precision P]

The limit is the rate of large square matrix products, measured on the same cores, in the same precision, by the same
provider, in the same rounds (see `benchmarks.serving.limit_alone`). Achieved are the operations that the scores need:
two for each weight and token, and four for each needed pair of query and key and each dimension of a head.
"""

import argparse
import json
import statistics
import subprocess
import time
from typing import Any

from benchmarks.result import Result, Row, refuse_uncommitted
from benchmarks.serving.models import MAX_TOKENS, PROJECT
from benchmarks.serving.options import add_options, assay_of
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.spreads import Spread, spread
from benchmarks.serving.work import Round, Work
from benchmarks.serving.workloads import fitting
from service.bundle.text_format import Formatter

SEED = 3
NAMES = ("best-of-8", "best-of-8-long", "best-of-8-short", "best-of-64", "pairs", "mixed", "interactive")
BATCH_TOKENS = 2048
"""About so many tokens make a batch, as under load; one interactive request is a batch of its own."""


def one_batch(name: str, requests: Round) -> list[list[int]]:
    """Token ids of the items of one request, or of so many as make a batch."""
    ids: list[list[int]] = []
    for items in requests:
        ids += [list(item.ids) for item in items]
        if name == "interactive" or sum(map(len, ids)) >= BATCH_TOKENS:
            break
    return ids


def text_seconds(formatter: Formatter, requests: Round) -> float:
    """Seconds for an item's tokens and JSON, on one core: its part of the request read, its text encoded."""
    items = [item for request in requests for item in request]
    content = json.dumps([{"prompt": item.prompt, "response": item.response} for item in items]).encode()
    began = time.perf_counter()
    json.loads(content)
    for request in requests:
        formatter.encode(request[0].prompt, [item.response for item in request])
    return (time.perf_counter() - began) / len(items)


def shares(measured: dict[str, Any], name: str, hidden: int) -> dict[str, Any]:
    """Rates, and where the time of one batch goes, from medians over the rounds.

    Args:
        measured: what `limit_alone` printed.
        name: of the batch.
        hidden: heads times the dimension of a head.
    """
    batch = measured["batches"][name]
    median = {part: statistics.median(times) for part, times in measured["seconds"].items()}
    linear = 2 * batch["tokens"] * sum(k * n * count for k, n, count in measured["weights"])
    widest = max(k for k, _, _ in measured["weights"])
    layers = sum(count for k, _, count in measured["weights"] if k == widest)  # a layer comes down from it once
    attention = 4 * batch["needed_cells"] * hidden * layers
    peak = peak_rate(measured)["median"]
    model, blind, alone = (median[f"{part} {name}"] for part in ("model", "blind", "linear"))
    return {
        **batch,
        "seconds": spread(measured["seconds"][f"model {name}"]),
        "gflops_per_s": (linear + attention) / model / 1e9,
        "of_peak": (linear + attention) / model / peak,
        "parts": {
            "linear layers at the peak": linear / peak / model,
            "linear layers, what their shapes cost": (alone - linear / peak) / model,
            "attention over keys, its mask and padding": (model - blind) / model,
            "norms, rotary, activations, gathers": (blind - alone) / model,
        },
    }


def peak_rate(measured: dict[str, Any]) -> Spread:
    """FLOP/s of large products: the better size of each round."""
    rates: list[list[float]] = []
    for part, times in measured["seconds"].items():
        kind, _, size = part.partition(" ")
        if kind == "peak":
            rates.append([8 * 2 * int(size) ** 3 / one for one in times])
    return spread([max(together) for together in zip(*rates, strict=True)])


def run(quick: bool, model: str, assay: Assay) -> Result:
    """All workloads that fit the model."""
    work = Work.of(model)
    rounds = {name: work.rounds(name, SEED, 1, quick)[0] for name in NAMES if name in fitting(MAX_TOKENS[model])}
    command = [
        str(assay.install() / "bin" / "python"), "-m", "benchmarks.serving.limit_alone",
        f"--bundle={work.model.bundle}", f"--rounds={3 if quick else 15}",
        *([f"--precision={assay.precision}"] if assay.precision else []),
    ]  # fmt: skip
    asked = json.dumps({"batches": {name: one_batch(name, requests) for name, requests in rounds.items()}})
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, cwd=PROJECT, check=True)
    measured = json.loads(done.stdout)
    hidden = max(k for k, n, _ in measured["weights"] if k == n)
    found = {name: shares(measured, name, hidden) for name in rounds}
    for name, requests in rounds.items():
        texts = text_seconds(work.renderer.formatter, requests)
        found[name]["text_seconds_per_item"] = texts
        found[name]["text_to_engine"] = texts * found[name]["items"] / found[name]["seconds"]["median"]
    peak, precision = peak_rate(measured), measured["precision"]
    rows = [Row(f"{model}, openvino {precision}: peak of matrix products", f"{peak['median'] / 1e9:.0f} GFLOP/s")]
    for name, one in found.items():
        parts = ", ".join(f"{part} {share:.0%}" for part, share in one["parts"].items())
        rows.append(
            Row(
                f"{model}, openvino {precision}, {name}",
                f"{one['gflops_per_s']:.0f} GFLOP/s, {one['of_peak']:.0%} of the peak ({parts}; beside it, on one "
                f"core, tokens and JSON: {one['text_to_engine']:.1%})",
            )
        )
    figures = {
        "precision": precision, "peak_flops_per_s": peak, "batches": found, "versions": assay.versions(),
        "server": assay.label,
    }  # fmt: skip
    return Result(f"limit_{model}_{precision}", quick, SEED, [], figures, rows)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.provider != "openvino":
        parser.error(f"only OpenVINO is measured, not --provider {arguments.provider}")
    refuse_uncommitted(arguments.quick)
    result = run(arguments.quick, arguments.model, assay_of(arguments))
    result.publish()


if __name__ == "__main__":
    main()
