"""Data that cannot be learnt from: one line that names the place, and nothing written."""

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.tiny import causal_tokenizer, save_backbone
from training.__main__ import main

PAIRS = [{"id": f"r{k}", "prompt": f"p{k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(40)]
RECORD = {"id": "x", "prompt": "p", "responses": ["a", "b"], "source": "s"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"), "llama", causal_tokenizer())


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def truncated_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(PAIRS), path)
    path.write_bytes(path.read_bytes()[:-100])


def written(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def judged(**judgement: Any) -> dict[str, Any]:
    return {**RECORD, "judgements": [{"i": 0, "j": 1, "i_wins": 1, "j_wins": 0, **judgement}]}


TIES = [{"prompt": f"p{k}", "response_a": "a", "response_b": "b", "votes_a": 1, "votes_b": 1} for k in range(40)]
NAN = {**PAIRS[2], "margin": math.nan}
CSV = b"prompt,chosen,rejected,margin\np,a,b,1.5\np,a,b,inf\n"
LATIN = lines(PAIRS[:3]) + '{"prompt": "caf\xe9"}'.encode("latin-1")

CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "truncated Parquet": ("d.parquet", truncated_parquet, r"d\.parquet: cannot be read as Parquet"),
    "truncated gzip": ("d.jsonl.gz", written(b"\x1f\x8b\x08\x00\x00"), r"d\.jsonl\.gz: cannot be read"),
    "UTF-16": ("d.jsonl", written(lines(PAIRS).decode().encode("utf-16")), r"d\.jsonl:1: not UTF-8"),
    "Latin-1": ("d.jsonl", written(LATIN), r"d\.jsonl:4: not UTF-8"),
    "an id twice": ("d.jsonl", written(lines([*PAIRS, PAIRS[3]])), r"d\.jsonl:41: id 'r3' was already used"),
    "a judgement that points nowhere": (
        "d.jsonl", written(lines([judged(j=7)])), r"d\.jsonl:1: .*compares 0 and 7, but the 2"
    ),
    "a response against itself": ("d.jsonl", written(lines([judged(j=0)])), r"d\.jsonl:1: .*i and j are both 0"),
    "a margin that is no number": ("d.jsonl", written(lines([*PAIRS[:2], NAN])), r"d\.jsonl:3: .*margin"),
    "an infinite margin in CSV": ("d.csv", written(CSV), r"d\.csv:3: .*margin"),
    "nothing but ties": ("d.jsonl", written(lines(TIES)), "no train pair has a majority: all votes tie"),
    "an empty part": ("d.jsonl", written(lines(PAIRS[:2])), "no (train|validation|test) prompts: 2 prompts in shares"),
    "an empty file": ("d.jsonl", written(b"\n\n"), r"d\.jsonl: no rows"),
}  # fmt: skip


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(
    case: str,
    stored: bool,
    tmp_path: Path,
    backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, write, reason = CASES[case]
    write(tmp_path / name)
    arguments = ["run", "--data.train", str(tmp_path / name), "--model.backbone", str(backbone), "--no-progress"]
    arguments += ["--run", str(tmp_path / "run"), "--bundle", str(tmp_path / "bundle")]
    arguments += ["--data.store", str(tmp_path / "store")] if stored else []
    monkeypatch.setattr(sys, "argv", ["assay-train", *arguments])
    assert main() == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("assay-train: ")]
    assert len(said) == 1
    assert re.search(reason, said[0]), said[0]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "bundle").exists()


def test_a_prompt_longer_than_the_model_is_cut_and_counted(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "prompt": f"{number} {'long ' * 200}"} for number, row in enumerate(PAIRS)]
    (tmp_path / "d.jsonl").write_bytes(lines(rows))
    arguments = ["fit", "--data.train", str(tmp_path / "d.jsonl"), "--model.backbone", str(backbone), "--no-progress"]
    arguments += ["--run", str(tmp_path / "run"), "--model.max-tokens", "64", "--optimiser.epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["assay-train", *arguments])
    with caplog.at_level("WARNING", "assay.training"):
        assert main() == 0
    assert any("items were longer than 64 tokens and were cut" in record.message for record in caplog.records)


def test_responses_that_differ_in_what_is_cut_alone(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Found before hours of training that could only end at a loss of ln 2; where it is some, they are counted."""
    same = "the same words again and again " * 10
    rows = [{"prompt": f"{n}?", "chosen": f"{same}{n} yes", "rejected": f"{same}{n} no"} for n in range(40)]
    arguments = ["fit", "--data.train", str(tmp_path / "d.jsonl"), "--model.backbone", str(backbone), "--no-progress"]
    arguments += ["--run", str(tmp_path / "run"), "--model.max-tokens", "64", "--optimiser.epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["assay-train", *arguments])
    (tmp_path / "d.jsonl").write_bytes(lines(rows))
    assert main() == 1
    assert re.search(
        r"cut to 64 tokens, the responses of all \d+ training pairs are the same.*model.max_tok",
        capsys.readouterr().err,
    )
    assert not (tmp_path / "run").exists()
    (tmp_path / "d.jsonl").write_bytes(lines([*rows, *PAIRS]))
    with caplog.at_level("WARNING", "assay.training"):
        assert main() == 0
    assert any(
        re.search(r"cut to 64 tokens, the responses of \d+ of \d+ training pairs are the same", record.message)
        for record in caplog.records
    )
