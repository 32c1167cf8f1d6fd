"""Each format from a tiny file, and what the format is told by."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest

from service.bundle.text_format import Message
from training.data.errors import DataError
from training.data.readers import read_records
from training.data.readers.formats import COLUMNS, detect
from training.data.record import Judgement, PreferenceRecord
from training.data.writer import write_records

GOLDEN = Path(__file__).parent / "golden"
USER = {"role": "user", "content": "2+2?"}
TURNS = [Message(role="user", content="2+2?")]


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read_row(path: Path, row: dict[str, Any], format: Any = "auto") -> Any:
    path.write_text(json.dumps(row))
    (record,) = read_records(path, format=format).records
    return record


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize("name", ["records", "trl", "trl_messages", "hh", "ranking", "votes"])
def test_golden_file(name: str) -> None:
    """The records of each golden file, as they were once read and checked by eye."""
    result = read_records(GOLDEN / f"{name}.jsonl")
    assert result.format == name.removesuffix("_messages")
    assert result.skipped == []
    made = [json.loads(record.model_dump_json(exclude_none=True)) for record in result.records]
    assert made == json.loads((GOLDEN / f"{name}.expected.json").read_text())


def test_trl_takes_margin_and_names(file: Path) -> None:
    row = {
        "prompt": "2+2?",
        "chosen": "4",
        "rejected": "5",
        "margin": 2,
        "id": 7,
        "group": "sums",
        "source": "us",
    }
    record = read_row(file, row)
    assert (record.id, record.group, record.source) == ("7", "sums", "us")
    assert record.judgements == [Judgement(i=0, j=1, i_wins=1, j_wins=0, margin=2)]


@pytest.mark.parametrize("prompt", ["2+2?", [USER]])
@pytest.mark.parametrize("repeated", [True, False])
def test_trl_messages_may_repeat_the_prompt(file: Path, prompt: Any, repeated: bool) -> None:
    before = [USER] if repeated else []
    row = {"prompt": prompt, "chosen": [*before, reply("4")], "rejected": [*before, reply("5")]}
    record = read_row(file, row)
    assert (record.prompt, record.responses) == (TURNS, ["4", "5"])


def test_null_fields_of_messages_are_left_out(file: Path) -> None:
    turn = {**USER, "tool_calls": None}
    assert read_row(file, {"chosen": [turn, reply("4")], "rejected": [turn, reply("5")]}).prompt == TURNS


def test_ranking_equal_is_a_tie(file: Path) -> None:
    row = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]}
    assert read_row(file, row).judgements == [
        Judgement(i=0, j=1, i_wins=0, j_wins=1),
        Judgement(i=0, j=2, i_wins=0, j_wins=0, ties=1),
        Judgement(i=1, j=2, i_wins=1, j_wins=0),
    ]
    scored = {"prompt": "p", "responses": ["a", "b", "c"], "scores": [0.5, 0.9, 0.5]}
    assert read_row(file, scored).judgements == read_row(file, row).judgements


def test_votes_without_ties(file: Path) -> None:
    row = {"prompt": [USER], "response_a": "4", "response_b": "", "votes_a": 3, "votes_b": 1}
    record = read_row(file, row)
    assert record.judgements == [Judgement(i=0, j=1, i_wins=3, j_wins=1)]
    assert record.prompt == TURNS


VOTES = [
    {
        "prompt": "2+2?",
        "response_a": 'it is "4",\nyes',
        "response_b": "5",
        "votes_a": 3.0,
        "votes_b": 1.0,
        "ties": 1.0,
    },
    {"prompt": "", "response_a": "good", "response_b": "", "votes_a": 2.0, "votes_b": 0.0, "ties": 0.0},
]


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet"])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"votes{kind}"
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(VOTES), path)
    else:
        plain = tmp_path / "plain"
        if kind.startswith(".csv"):
            with plain.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(VOTES[0]))
                writer.writeheader()
                writer.writerows(VOTES)
        elif kind.startswith(".jsonl"):
            plain.write_text("\n\n".join(map(json.dumps, VOTES)) + "\n")
        else:
            plain.write_text(json.dumps(VOTES))
        raw = plain.read_bytes()
        path.write_bytes(gzip.compress(raw) if kind.endswith(".gz") else raw)
    result = read_records(path)
    assert result.format == "votes"
    assert [record.responses for record in result.records] == [['it is "4",\nyes', "5"], ["good", ""]]
    assert [record.judgements[0].i_wins for record in result.records] == [3, 2]
    assert {record.source for record in result.records} == {"votes"}


def test_csv_cells_hold_json_where_the_column_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ranking.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "responses", "ranks"])
        writer.writerow([json.dumps([USER]), '["4", "5"]', "[1, 2]"])
        writer.writerow(["[{not messages", '["4", "5"]', "[1, 2]"])
    records = read_records(path).records
    assert [record.prompt for record in records] == [TURNS, "[{not messages"]


def test_csv_messages_margin_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "trl.csv"
    path.write_text("prompt,chosen,rejected,margin\n007,4,5,\n1e3,4,5,0.5\n", encoding="utf-8-sig")
    records = read_records(path).records
    assert [(record.prompt, record.judgements[0].margin) for record in records] == [
        ("007", None),
        ("1e3", 0.5),
    ]


def test_parquet_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "trl.parquet"
    pq.write_table(pa.Table.from_pylist([{"chosen": [USER, reply("4")], "rejected": [USER, reply("5")]}]), path)
    assert read_records(path).records[0].prompt == TURNS


def test_written_records_read_back(tmp_path: Path) -> None:
    records = read_records(GOLDEN / "records.jsonl").records
    write_records(tmp_path / "again.jsonl", records)
    assert read_records(tmp_path / "again.jsonl", format="records").records == records


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"id": 1, "prompt": 1, "responses": [], "judgements": []}, "records"),
        ({"prompt": 1, "responses": [], "scores": []}, "ranking"),
        ({"prompt": 1, "response_a": "", "response_b": "", "votes_a": 1, "votes_b": 1}, "votes"),
        ({"prompt": 1, "response_a": "", "response_b": "", "votes": []}, "votes"),
        ({"chosen": "\n\nHuman: a", "rejected": ""}, "hh"),
        ({"prompt": "p", "chosen": "\n\nHuman: a", "rejected": ""}, "trl"),
        ({"prompt": None, "chosen": "\n\nHuman: a", "rejected": ""}, "hh"),
        ({"chosen": "a", "rejected": ""}, "trl"),
    ],
)
def test_detect(row: dict[str, Any], format: str) -> None:
    assert detect(row) == format


def test_an_unknown_format_names_the_columns_and_the_choices(file: Path) -> None:
    file.write_text('{"question": "q", "answer": "a"}')
    reason = r"no known format has these columns \(answer, question\); say with data.columns which .*votes:"
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: {reason}"):
        read_records(file)
    with pytest.raises(DataError, match=rf"rows\.jsonl: none of its 1 rows can be read; the first: {reason}"):
        read_records(file, on_bad_row="skip")


def test_a_first_row_that_shows_no_format_is_skipped_like_any_other(file: Path) -> None:
    good = {"prompt": "p", "chosen": "4", "rejected": "5"}
    file.write_text("\n".join(map(json.dumps, ({"prompt": "p", "chosen": None, "rejected": "5"}, good))))
    result = read_records(file, on_bad_row="skip")
    assert result.format == "trl"
    assert [record.id for record in result.records] == ["rows-2"]
    assert [(row.line, row.reason[:11]) for row in result.skipped] == [(1, "no known fo")]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no known format"):
        read_records(file)


RENAMED = {"prompt": "question", "chosen": "response_j", "rejected": "response_k", "margin": "gap"}
OTHER = {"question": "2+2?", "response_j": "4", "response_k": "5", "gap": 2.0}


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_columns_of_other_names(tmp_path: Path, kind: str) -> None:
    """A column that had the format's name before is set aside; cells of CSV are read as what they stand for."""
    path = tmp_path / f"rows.{kind}"
    row = {**OTHER, "prompt": "a template"} | ({"margin": "slightly better"} if kind == "csv" else {"margin": 7.0})
    if kind == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([row.keys(), row.values()])
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row if kind == "jsonl" else [row]))
    result = read_records(path, columns=RENAMED)
    (record,) = result.records
    assert result.format == "trl"
    assert record.prompt == "2+2?"
    assert record.responses == ["4", "5"]
    assert record.judgements[0].margin == 2


def test_names_that_rows_have_stay_where_nothing_else_is_there(file: Path) -> None:
    """One source may have other names and the next those of the format."""
    file.write_text(json.dumps({"prompt": "2+2?", "chosen": "4", "rejected": "5"}))
    assert read_records(file, columns=RENAMED).records[0].prompt == "2+2?"


def test_a_column_that_is_not_there_is_named(file: Path) -> None:
    rows = [OTHER, {**OTHER, "question": "1+1?", "response_j": None}, {"question": "3+3?", "response_k": "5"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = read_records(file, columns=RENAMED, on_bad_row="skip")
    assert [bad.reason for bad in result.skipped] == [
        "column 'chosen' is null",
        "column 'chosen' is missing (data.columns: the row has no column 'response_j')",
    ]
    with pytest.raises(
        DataError, match="no known format has these columns .*data.columns: the row has no column 'answer'"
    ):
        read_records(file, columns={"prompt": "question", "chosen": "answer"})


def test_a_column_that_no_row_has_is_no_slip_of_the_pen(file: Path) -> None:
    """A prompt is optional: misspelt, it would only be empty."""
    file.write_text(json.dumps(OTHER))
    with pytest.raises(DataError, match="data.columns: no row has a column 'quesion'"):
        read_records(file, columns={**RENAMED, "prompt": "quesion"})


def test_one_column_may_have_two_names(file: Path) -> None:
    file.write_text(json.dumps(OTHER))
    record = read_records(file, columns={**RENAMED, "group": "question"}).records[0]
    assert record.prompt == record.group == "2+2?"


def test_a_name_that_no_format_has_is_refused(file: Path) -> None:
    file.write_text(json.dumps(OTHER))
    with pytest.raises(ValueError, match="data.columns: no format has a column 'response_j'; .* chosen=THEIRS"):
        read_records(file, columns={"response_j": "chosen"})


def test_all_names_that_formats_read_can_be_given() -> None:
    assert set(PreferenceRecord.model_fields) <= COLUMNS
    for golden in GOLDEN.glob("*.jsonl"):
        for line in golden.read_text().splitlines():
            assert set(json.loads(line)) <= COLUMNS


def test_rows_without_a_prompt_are_counted_in_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of one question two prompts are made, and nothing else says so."""
    rows = [
        {"chosen": f"Q: 2+2?\n{opening} {k}", "rejected": f"Q: 2+2?\n{opening} x"}
        for k, opening in ((1, "Well."), (2, "No."))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len({record.split_key for record in read_records(file).records}) == 2
    assert "rows.jsonl: 2 rows have no prompt" in caplog.text
    caplog.clear()
    read_row(file, {"chosen": [USER, reply("4")], "rejected": [USER, reply("5")]})
    read_row(file, {"prompt": "Q: 2+2?", "chosen": "4", "rejected": "5"})
    assert not caplog.text
