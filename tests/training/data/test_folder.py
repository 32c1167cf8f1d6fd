"""A folder is read whole or refused: no data in it are passed over in silence."""

import gzip
import json
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest

from training.data.errors import DataError
from training.data.readers import read_records


def row(prompt: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": "4", "rejected": "5"}


def line(prompt: str) -> str:
    return json.dumps(row(prompt))


def test_every_known_kind_is_read_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(line("q2"))
    (tmp_path / "a.x.jsonl").write_text(line("q0"))
    (tmp_path / "a.y.json").write_text(f"[{line('q1')}]")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(line("q3").encode()))
    (tmp_path / "d.csv").write_text("prompt,chosen,rejected\nq4,4,5\n")
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(b"prompt,chosen,rejected\nq5,4,5\n"))
    pq.write_table(pa.Table.from_pylist([row("q6")]), tmp_path / "f.parquet")
    records = read_records(tmp_path).records
    assert [(record.id, record.prompt) for record in records] == [
        ("a.x-1", "q0"), ("a.y-1", "q1"), ("b-1", "q2"), ("c-1", "q3"), ("d-2", "q4"), ("e-2", "q5"), ("f-1", "q6")
    ]  # fmt: skip


def test_hidden_and_other_files_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line("q"))
    for name in ("notes.txt", "README.md", "LICENSE", "dataset_infos.json", ".a.jsonl", ".cache/a.jsonl", "docs/a.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not data")
    assert len(read_records(tmp_path).records) == 1


@pytest.mark.parametrize(
    "name", ["sub/c.jsonl", "sub/deep/c.CSV", "b.tsv", "b.jsonl.zst", "b.parquet.gz", "b.JSONL", "sub/b.zip"]
)
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_data_that_would_be_left_out_are_named(tmp_path: Path, name: str, on_bad_row: object) -> None:
    (tmp_path / "a.jsonl").write_text(line("q"))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(line("q"))
    reason = f"look like data and cannot be read with it: {name}; known kinds are"
    with pytest.raises(DataError, match=reason) as error:
        read_records(tmp_path, on_bad_row=on_bad_row)  # type: ignore[arg-type]
    assert error.value.file == str(tmp_path)


def test_many_left_out_are_counted(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.tsv").touch()
    with pytest.raises(DataError, match=r"0\.tsv, 1\.tsv, 2\.tsv and 2 more; known kinds"):
        read_records(tmp_path)


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(DataError, match=r"no file of a known kind in this folder; known are \.jsonl, "):
        read_records(tmp_path)
