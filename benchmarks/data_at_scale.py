"""Two million generated pairs through the store: how much memory, how long, and what a kill costs.

    python -m benchmarks.data_at_scale [--quick]

A process of its own reads the pairs into the store and tokenizes them for MiniLM; half way it is killed, and another
one goes on. Then it draws the elements of some steps and compares their tokens with those made in memory. Memory is the
largest resident set of either process; those that tokenize beside them are on record too.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from service.bundle.text_format import Formatter
from training.backbone import load_backbone
from training.config import DataConfig
from training.data.record_store import RecordStore, shard_files
from training.encoding import encode_records
from training.examples import Collator, ElementDataset
from training.heads import Heads
from training.judgement_weights import judgement_weights
from training.prepare_stored import prepare_stored
from training.token_store import tokenize

PAIRS, QUICK_PAIRS = 2_000_000, 60_000
MOST_GIB = 2.0
STEPS, ELEMENTS = 50, 32
SEED = 0
_FRACTION = 0.001
"""Held out for validation and for the test: a few thousand of millions are enough."""


@dataclass(frozen=True)
class Told:
    """What the process says of itself."""

    reading_seconds: float
    tokenizing_seconds: float
    elements_seconds: float
    records: int
    peak_gib: float
    children_peak_gib: float
    equal: bool


def generate(path: Path, pairs: int) -> None:
    """Pairs of random English-like texts, each with a prompt of its own."""
    generator = random.Random(SEED)
    words = ["".join(generator.choices("aeioulnrstmdpbk", k=generator.randint(2, 9))) for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as stream:
        for number in tqdm(range(pairs), "generating", unit=" pairs"):
            prompt, chosen, rejected = (" ".join(generator.choices(words, k=k)) for k in (20, 40, 40))
            row = {"prompt": f"{number} {prompt}", "chosen": chosen, "rejected": rejected}
            stream.write(json.dumps(row) + "\n")


def work(folder: Path) -> Told:
    """Read, tokenize, and take the elements of some steps."""
    backbone = load_backbone("minilm")
    formatter = Formatter(backbone.text_format, backbone.template, backbone.tokenizer, 256)
    config = DataConfig(
        train=(str(folder / "pairs.jsonl"),),
        store=folder / "store",
        validation_fraction=_FRACTION,
        test_fraction=_FRACTION,
    )
    began = time.monotonic()
    records = prepare_stored(config, SEED).splits.train
    assert isinstance(records, RecordStore)
    read = time.monotonic()
    store = tokenize(records, formatter)
    tokenized = time.monotonic()
    dataset = ElementDataset(store, judgement_weights(records, Heads()), 8, SEED)
    order = np.random.default_rng(SEED).permutation(len(dataset))[: STEPS * ELEMENTS].tolist()
    collate = Collator(backbone.family, 64)
    for step in range(0, len(order), ELEMENTS):
        collate([dataset[slot] for slot in order[step : step + ELEMENTS]])
    ended = time.monotonic()
    chosen = order[:500]
    plain = encode_records([records[number] for number in chosen], formatter, False)
    equal = all(
        np.array_equal(mine.ids, theirs.ids)
        for number, example in zip(chosen, plain, strict=True)
        for mine, theirs in zip(store[number].items, example.items, strict=True)
    )
    mine, children = (
        resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return Told(read - began, tokenized - read, ended - tokenized, len(records), mine, children, equal)


def begun(folder: Path) -> subprocess.Popen[str]:
    """`work` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data_at_scale", "--work", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def killed(folder: Path, after: int) -> float:
    """Begin, and kill once so many shards are tokenized; the largest resident set until then, in GiB.

    Raises:
        RuntimeError: it ended before.
    """
    process = begun(folder)
    while len(_tokens(folder)) < after:
        if process.poll() is not None:
            raise RuntimeError("the process ended before it could be killed: nothing was shown; use more pairs")
        time.sleep(0.05)
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) / 2**20


def to_the_end(folder: Path) -> Told:
    """What it says of itself."""
    process = begun(folder)
    output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return Told(**json.loads(output.splitlines()[-1]))


def _tokens(folder: Path) -> list[Path]:
    return [file for tokens in (folder / "store").glob("records-*/tokens-*") for file in shard_files(tokens)]


def run(quick: bool) -> Result:
    """Generate, kill half way, go on."""
    pairs = QUICK_PAIRS if quick else PAIRS
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        generate(folder / "pairs.jsonl", pairs)
        source_gib = (folder / "pairs.jsonl").stat().st_size / 2**30
        began = time.monotonic()
        reading_peak = killed(folder, after=max(1, pairs // 40_000))
        before = {file: file.stat().st_mtime_ns for file in _tokens(folder)}
        told = to_the_end(folder)
        wall = time.monotonic() - began
        kept = sum(file.is_file() and file.stat().st_mtime_ns == then for file, then in before.items())
        store_gib = sum(file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file()) / 2**30
    targets = [
        Target(
            f"{pairs:,} pairs read, tokenized and drawn from disk: memory", f"at most {MOST_GIB:g} GiB",
            f"{reading_peak:.2f} GiB read, {told.peak_gib:.2f} drawn (a process that tokenizes: at most "
            f"{told.children_peak_gib:.2f}); the file has {source_gib:.1f} GiB",
            max(reading_peak, told.peak_gib) <= MOST_GIB,
        ),
        Target(
            f"{pairs:,} pairs, killed half way: what was tokenized is kept, and tokens are those of memory",
            "all of it; equal", f"{kept} of {len(before)} shards kept; {'equal' if told.equal else 'OTHERS'}",
            kept == len(before) and told.equal,
        ),
    ]  # fmt: skip
    rows = [
        Row(
            f"{pairs:,} pairs: from file to tokens, with the kill",
            f"{wall:.0f} s; a step of {ELEMENTS} pairs is drawn in {1000 * told.elements_seconds / STEPS:.0f} ms",
        )
    ]
    figures = {"pairs": pairs, "source_gib": source_gib, "store_gib": store_gib, "wall_seconds": wall, **asdict(told)}
    figures["reading_peak_gib"] = reading_peak
    return Result("data_at_scale", quick, SEED, targets, figures, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PAIRS:,} pairs")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.work is not None:
        print(json.dumps(asdict(work(flags.work))))
        sys.exit(0)
    refuse_uncommitted(flags.quick)
    run(flags.quick).publish()
