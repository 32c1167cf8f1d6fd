"""Two million generated pairs through the store: how much memory, how long, and what a kill costs.

    python -m benchmarks.data_at_scale [--quick]

A process of its own reads the pairs into the store and tokenizes them for MiniLM; half way it is killed, and another
one goes on. Then it draws the elements of some steps and compares their tokens with those made in memory. All that,
with the processes that tokenize, runs in a control group of 2 GiB, as in a container of that size: what needs more is
killed. On record are the group's memory that is no page of a file (sampled), and the largest resident set of the
process that goes on, in which pages of the mapped store count until the system takes them back: those alone are more
than 2 GiB where there is more memory, and say little. Where no group can be made (that takes root) nothing limits it,
and the target is not held.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.memory_limit import MemoryLimit, memory_limit
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
    weighing_seconds: float
    drawing_seconds: float
    records: int
    resident_peak_gib: float
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
        seed=SEED,
    )
    began = time.monotonic()
    records = prepare_stored(config).splits.train
    assert isinstance(records, RecordStore)
    read = time.monotonic()
    store = tokenize(records, formatter)
    tokenized = time.monotonic()
    dataset = ElementDataset(store, judgement_weights(records, Heads()), 8, SEED)
    weighed = time.monotonic()
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
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Told(
        read - began, tokenized - read, weighed - tokenized, ended - weighed, len(records), resident, equal
    )  # fmt: skip


class Worker:
    """`work` in a process of its own, watched.

    Attributes:
        most_gib: the most memory of the group that is no page of a file, as sampled so far; 0 without a group.
    """

    def __init__(self, folder: Path, limit: MemoryLimit | None) -> None:
        self._limit = limit
        self.most_gib = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.data_at_scale", "--work", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limit.join if limit else None,
        )

    def until(self, done: Callable[[], bool]) -> bool:
        """Wait until `done`, or the end of the process; whether it is running."""
        while self._process.poll() is None and not done():
            if self._limit is not None:
                self.most_gib = max(self.most_gib, self._limit.anonymous_bytes() / 2**30)
            time.sleep(0.05)
        return self._process.poll() is None

    def kill(self) -> None:
        """It, and those that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def told(self) -> Told:
        """What it said of itself at its end.

        Raises:
            RuntimeError: it failed, or was killed.
        """
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the process ended with {self._process.returncode}; -9 is most likely a lack of memory")
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
        with memory_limit(f"assay-{os.getpid()}", int(MOST_GIB * 2**30)) as limit:
            first = Worker(folder, limit)
            half = max(1, pairs // 40_000)
            if not first.until(lambda: len(_tokens(folder)) >= half):
                raise RuntimeError("the process ended before it could be killed: it failed, or there are too few pairs")
            first.kill()
            before = {file: file.stat().st_mtime_ns for file in _tokens(folder)}
            second = Worker(folder, limit)
            second.until(lambda: False)
            told = second.told()
        wall = time.monotonic() - began
        kept = sum(file.is_file() and file.stat().st_mtime_ns == then for file, then in before.items())
        store_gib = sum(file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file()) / 2**30
    most = max(first.most_gib, second.most_gib)
    within = (
        "nothing limited it: run it as root, so that a control group can be made"
        if limit is None
        else f"ran to its end there; {most:.2f} GiB are its own, the rest pages of files"
    )
    targets = [
        Target(
            f"{pairs:,} pairs read, tokenized and drawn from disk, all processes together", f"within {MOST_GIB:g} GiB",
            f"{within}; the file has {source_gib:.1f} GiB, the store {store_gib:.1f}", limit is not None,
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
            f"{wall:.0f} s; at each start the judgements are weighed in {told.weighing_seconds:.0f} s; a step of "
            f"{ELEMENTS} pairs is drawn in {1000 * told.drawing_seconds / STEPS:.0f} ms",
        )
    ]
    figures = {"pairs": pairs, "source_gib": source_gib, "store_gib": store_gib, "wall_seconds": wall, **asdict(told)}
    figures["own_peak_gib"] = most
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
