"""Every kind of bad row: its file, its line, its reason; counted when it is skipped."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest

from training.data.errors import DataError
from training.data.readers import BadRow, read_records

GOOD: dict[str, dict[str, Any]] = {
    "records": {
        "id": "r",
        "prompt": "p",
        "responses": ["a", "b"],
        "judgements": [{"i": 0, "j": 1, "i_wins": 1, "j_wins": 0}],
        "source": "s",
    },
    "trl": {"prompt": "p", "chosen": "a", "rejected": "b"},
    "hh": {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"},
    "ranking": {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]},
    "votes": {"prompt": "p", "response_a": "a", "response_b": "b", "votes_a": 1, "votes_b": 0},
}
USER, REPLY = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
NAN = float("nan")

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("records", {"score": 1}, "score: Extra inputs are not permitted"),
    ("records", {"responses": ["a", True]}, r"responses\.1: Input should be a valid string"),
    ("records", {"prompt": 3}, "prompt"),
    ("records", {"id": "r"}, r"id 'r' was already used at .*rows\.jsonl:1"),
    ("trl", {"chosen": None}, "column 'chosen' is null"),
    ("trl", {"chosen": 4}, r"column 'chosen' must be text or a list of messages, not int \('4'\)"),
    ("trl", {"chosen": [REPLY]}, "one of chosen and rejected is text"),
    ("trl", {"prompt": "", "chosen": "", "rejected": " "}, "every response is empty"),
    ("trl", {"prompt": None, "chosen": "a", "rejected": "a"}, "same text and no prompt is given"),
    ("trl", {"margin": NAN}, "column 'margin' is nan; a finite number is needed"),
    ("trl", {"margin": "big"}, r"column 'margin' must be a number, not str \('big'\)"),
    ("trl", {"id": 1.5}, "column 'id' must be text, not float"),
    ("trl", {"chosen": [USER, USER], "rejected": [REPLY]}, "chosen has user after the prompt"),
    ("trl", {"chosen": [USER, REPLY, REPLY], "rejected": [REPLY]}, "chosen has assistant, assistant after"),
    (
        "trl",
        {"prompt": None, "chosen": [USER], "rejected": [USER, REPLY]},
        "chosen has nothing after the 1 messages",
    ),
    ("trl", {"prompt": None, "chosen": [], "rejected": []}, "chosen has nothing after the 0 messages"),
    ("trl", {"prompt": None, "chosen": [USER], "rejected": [USER]}, "chosen has user after the 0 messages"),
    ("trl", {"chosen": [{"role": "user"}], "rejected": [REPLY]}, r"chosen\[0\]: content: Field required"),
    ("trl", {"chosen": ["a"], "rejected": [REPLY]}, r"chosen\[0\] must be a message .*, not str"),
    ("trl", {"chosen": [{**REPLY, "name": "x"}], "rejected": [REPLY]}, r"chosen\[0\]: name: Extra inputs"),
    ("trl", {"prompt": []}, "prompt is an empty list of messages"),
    ("hh", {"chosen": "a"}, "chosen has no '.*Human:' or"),
    ("hh", {"chosen": "x\n\nHuman: p\n\nAssistant: a"}, "chosen has text before its first turn: 'x'"),
    ("hh", {"chosen": "\n\nHuman: q\n\nAssistant: a"}, r"chosen parts .* in a human turn \(turn 1\)"),
    ("hh", {"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "the two sides share no turn"),
    ("ranking", {"responses": "ab"}, "column 'responses' must be a list, not str"),
    ("ranking", {"responses": ["a", True]}, r"responses\[1\] must be text, not bool \('True'\)"),
    ("ranking", {"responses": ["a"], "ranks": [1]}, "at least 2 items"),
    ("ranking", {"ranks": [1]}, "column 'ranks' has 1 values for 2 responses"),
    ("ranking", {"ranks": [1, NAN]}, r"ranks\[1\] is nan"),
    ("ranking", {"ranks": [1, "2"]}, r"ranks\[1\] must be a number, not str"),
    ("ranking", {"ranks": None}, "neither of the columns 'ranks' and 'scores'"),
    ("ranking", {"scores": [1, 2]}, "both of the columns 'ranks' and 'scores'"),
    ("trl", {"margin": int("9" * 400)}, "column 'margin' is an integer that no float can hold"),
    ("trl", {"prompt": "p\ud800"}, "prompt holds half a surrogate pair"),
    ("trl", {"prompt": [{"role": "user", "content": "p\ud800"}]}, "prompt holds half a surrogate pair"),
    ("trl", {"prompt": None, "chosen": "Q: \udfff a", "rejected": "Q: \udfff b"}, "half a surrogate pair"),
    ("trl", {"category": "\ud800"}, "category holds half a surrogate pair"),
    ("records", {"id": "2", "responses": ["a", "\ud800"]}, r"responses\.1 holds half a surrogate pair"),
    (
        "records",
        {"id": "2", "judgements": [{"i": 0, "j": 1, "i_wins": 1e308, "j_wins": 1e308}]},
        "the votes add up to more than a number can hold",
    ),
    ("votes", {"votes_b": int("9" * 400)}, "column 'votes_b' is an integer that no float can hold"),
    ("votes", {"votes_a": NAN}, "column 'votes_a' is nan"),
    ("votes", {"votes_a": True}, "column 'votes_a' must be a number, not bool"),
    ("votes", {"votes_b": -1}, "column 'votes_b' is -1; votes are counts, 0 or more"),
    ("votes", {"votes_a": 0}, "no votes"),
    ("votes", {"response_a": 1}, "column 'response_a' must be text, not int"),
    ("votes", {"prompt": None}, "column 'prompt' is null"),
]


@pytest.mark.parametrize(("format", "changes", "reason"), BAD)
def test_bad_row(tmp_path: Path, format: Any, changes: dict[str, Any], reason: str) -> None:
    file = tmp_path / "rows.jsonl"
    last = {**GOOD[format], "id": "last"} if format == "records" else GOOD[format]
    rows = [GOOD[format], {**GOOD[format], **changes}, last]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=reason) as error:
        read_records(file, format=format)
    assert (error.value.file, error.value.line) == (str(file), 2)
    assert str(error.value) == f"{file}:2: {error.value.reason}"
    result = read_records(file, format=format, on_bad_row="skip")
    assert result.skipped == [BadRow(str(file), 2, error.value.reason)]
    assert len(result.records) == 2


@pytest.mark.parametrize("format", ["records", "trl", "hh", "ranking", "votes"])
def test_each_needed_column_is_missed(tmp_path: Path, format: Any) -> None:
    for column in GOOD[format]:
        if (format, column) in {("trl", "prompt"), ("ranking", "ranks")}:
            continue  # One is optional, the other has its own reason above.
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps({name: value for name, value in GOOD[format].items() if name != column}))
        with pytest.raises(DataError, match=column):
            read_records(file, format=format)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "invalid JSON: Expecting property name"),
        (b"[1]", "a row must be a JSON object, not list"),
        (b'{"prompt": "\xff"}', "not UTF-8: invalid start byte at byte 12"),
        (b"[" * 100_000, "invalid JSON: nested too deeply"),
        (b'{"margin": ' + b"9" * 5000 + b"}", "invalid JSON: an integer of thousands of digits"),
    ],
)
def test_bad_line_of_json(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(GOOD["trl"]).encode()
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join([line, good, b"", line, good]))
    result = read_records(file, on_bad_row="skip")
    assert [(row.line, row.reason.startswith(reason)) for row in result.skipped] == [(1, True), (4, True)]
    assert [record.id for record in result.records] == ["rows-2", "rows-5"]
    with pytest.raises(DataError, match=reason):
        read_records(file)


def test_bad_rows_of_csv(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    lines = [
        "prompt,response_a,response_b,votes_a,votes_b",
        '"two\nlines",a,b,1,0',
        "p,a,b,many,0",
        "p,a,b",
        'p,"a"x,b,1,0',
        "p,a,b,,0",
        "p,a,b,nan,0",
        "q,a,b,2,0",
    ]
    file.write_text("\n".join(lines))
    result = read_records(file, on_bad_row="skip")
    assert [(row.line, row.reason) for row in result.skipped] == [
        (4, "column 'votes_a': must be a number, not 'many'"),
        (5, "3 cells for 5 columns"),
        (6, "invalid CSV: ',' expected after '\"'"),
        (7, "column 'votes_a' is null"),
        (8, "column 'votes_a' is nan; a finite number is needed"),
    ]
    assert [record.id for record in result.records] == ["rows-2", "rows-9"]


HEADER = "prompt,response_a,response_b,votes_a,votes_b"


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("end", ["", '\nq,"a"x,b,1,0\np,a,b,1,0'])
def test_a_stray_quote_in_csv_takes_no_row_along_in_silence(tmp_path: Path, end: str, on_bad_row: Any) -> None:
    """It would make one row of all that follow, up to the next quote or the end."""
    file = tmp_path / "rows.csv"
    good = [f"p{number},a,b,1,0" for number in range(200)]
    file.write_text("\n".join([HEADER, *good[:5], 'p5,"unclosed,bad', *good[5:]]) + end)
    with pytest.raises(DataError, match=r"rows\.csv:7: invalid CSV: .* the rows between cannot be told apart") as error:
        read_records(file, on_bad_row=on_bad_row)
    assert error.value.line == 7


def test_every_line_that_a_stray_quote_swallows_is_counted(tmp_path: Path) -> None:
    """Two stray quotes may pair up to a row that is well formed but for its number of cells."""
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([HEADER, "p,a,b,1,0", 'p,"a', "p,a,b,1,0", "p,a,b,1,0", 'p,a"', "q,a,b,1,0"]))
    result = read_records(file, on_bad_row="skip")
    assert [row.line for row in result.skipped] == [3, 4, 5, 6]
    assert {row.reason for row in result.skipped} == {
        "2 cells for 5 columns, in a row that a quote stretches from line 3 to line 6"
    }
    assert [record.id for record in result.records] == ["rows-2", "rows-7"]


def test_bad_rows_of_a_list_and_of_parquet_are_numbered(tmp_path: Path) -> None:
    rows = [GOOD["trl"], {**GOOD["trl"], "chosen": None}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.parquet"):
        with pytest.raises(DataError, match=rf"{name}:2: column 'chosen' is null"):
            read_records(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b"\n \n", "no rows"),
        ("a.json", b"[]", "no rows"),
        ("a.jsonl", b"{\n[\n", "none of its 2 rows can be read; the first: invalid JSON"),
        ("a.json", b"{}", "must be a JSON list of rows, not dict"),
        ("a.json", b"[", "invalid JSON"),
        ("a.csv", b"", "the first line must name the columns"),
        ("a.csv", b"prompt,prompt\n", "the first line must name the columns, each once"),
        ("a.csv", b"prompt\n\xff\n", "not UTF-8"),
        ("a.txt", b"x", "unknown kind of file"),
        ("a.parquet.gz", b"x", "unknown kind of file"),
        ("a.parquet", b"x", "cannot be read as Parquet"),
        ("a.jsonl.gz", b"x", "cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": 1}' * 99, mtime=0)[:-9], "cannot be read: Compressed file ended"),
    ],
)
def test_a_source_that_cannot_be_read_is_never_skipped(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        read_records(file, on_bad_row="skip")
    assert error.value.file == str(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_records(tmp_path / "absent.jsonl")


def test_unknown_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format is 'xml'"):
        read_records(tmp_path, format="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_bad_row is 'ignore'"):
        read_records(tmp_path, on_bad_row="ignore")  # type: ignore[arg-type]


def test_messages_in_the_spelling_of_python_are_no_text(tmp_path: Path) -> None:
    code = ["[{sic}]", "[{'role': 'admin'}]", "[{'role': 'admin', 'content': 1}] is what it returns"]
    cells = ["[{'role': 'user', 'content': 'p'}]", *code]
    file = tmp_path / "rows.csv"
    file.write_text("prompt,chosen,rejected\n" + "".join(f'"{cell}",a,b\n' for cell in cells))
    result = read_records(file, on_bad_row="skip")
    assert [row.line for row in result.skipped] == [2]
    assert "column 'prompt': is a list of messages in the spelling of Python" in result.skipped[0].reason
    assert [record.prompt for record in result.records] == code


def test_what_python_cannot_have_is_a_bad_row_of_parquet(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff", b"a"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    days = pa.array([0, 0, 10**7], pa.date32())
    columns = {"prompt": pa.array(["p", "q", "r"]), "chosen": text, "rejected": pa.array(["b"] * 3), "day": days}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet:2: column 'chosen': .*utf-8"):
        read_records(tmp_path / "rows.parquet")
    result = read_records(tmp_path / "rows.parquet", on_bad_row="skip")
    assert [(row.line, row.reason.partition(":")[0]) for row in result.skipped] == [
        (2, "column 'chosen'"),
    ]
    assert [record.prompt for record in result.records] == ["p", "r"]  # whatever the day


def test_columns_of_parquet_that_have_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["chosen", "chosen", "rejected"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="more than one column is named 'chosen'"):
        read_records(tmp_path / "rows.parquet", on_bad_row="skip")
