"""The six public files, against what was counted in them by other means."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from training.data.baselines import length_rule
from training.data.errors import DataError
from training.data.hygiene import check
from training.data.leakage import check_leakage
from training.data.merge import merge_by_prompt
from training.data.pairs import decided, pairs_of
from training.data.public_sets import (
    PUBLIC_SETS,
    autoj,
    convarg,
    convarg_strict,
    data_folder,
    ethics,
    hh_harmless,
    pandalm,
    qa_feedback,
)
from training.data.splits import split


def first_place_wins(records: list[Any]) -> float:
    pairs = decided(records)
    return sum(pair.direction > 0 for pair in pairs) / len(pairs)


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def test_folder_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DATA", "/elsewhere")
    assert data_folder() == Path("/elsewhere")
    monkeypatch.delenv("ASSAY_DATA")
    assert data_folder().parts[-2:] == ("shared", "data")


def test_every_file_has_a_reader(public_data: Path) -> None:
    assert set(PUBLIC_SETS) == {path.name for path in public_data.glob("*.jsonl.gz")}


def test_convarg_votes(public_data: Path) -> None:
    records = convarg(public_data / "convarg.jsonl.gz")
    assert len(records) == 32
    assert len({record.category for record in records}) == 16
    assert sum(len(record.judgements) for record in records) == 16_927
    assert sum(len(record.responses) for record in records) == 1_052
    assert len({text for record in records for text in record.responses}) == 1_038
    assert sum(pair.judgement.votes for pair in pairs_of(records)) == 84_445
    assert sum(pair.judgement.ties for pair in pairs_of(records)) == 19_105
    first = records[0]
    assert first.group == "ban-plastic-water-bottles_no-bad-for-the-economy"
    assert first.prompt == (
        "Ban Plastic Water Bottles\nWhat is a convincing argument for this side: No Bad For the Economy?"
    )
    judgement = first.judgements[0]
    assert (judgement.i_wins, judgement.j_wins, judgement.ties) == (1, 3, 1)
    assert first.responses[judgement.j].startswith("Americans spend billions")


def test_convarg_strict(public_data: Path) -> None:
    strict, full = (read(public_data / "convarg.jsonl.gz") for read in (convarg_strict, convarg))
    assert [(record.id, record.responses) for record in strict] == [(record.id, record.responses) for record in full]
    pairs = decided(strict)
    assert len(pairs) == 11_650
    assert sum(pair.direction > 0 for pair in pairs) == 5_872
    assert {pair.judgement.votes for pair in pairs} == {1.0}
    assert length_rule(strict).value == pytest.approx(0.77, abs=0.005)


def test_hh_harmless(public_data: Path) -> None:
    records = hh_harmless(public_data / "hh-harmless.jsonl.gz")
    assert len(records) == 2_312
    assert length_rule(records).value == pytest.approx(0.443, abs=0.005)
    assert first_place_wins(records) == pytest.approx(0.5, abs=0.03)
    assert len({record.group for record in records}) < len({record.prompt_key for record in records})


def test_qa_feedback(public_data: Path) -> None:
    records = qa_feedback(public_data / "qa-feedback.jsonl.gz")
    assert {(len(record.responses), len(record.judgements)) for record in records} == {(4, 6)}
    assert sum(pair.judgement.ties for pair in pairs_of(records)) == 384
    assert first_place_wins(records) == pytest.approx(0.5, abs=0.03)  # 60 % before the shuffle
    assert length_rule(records).value == pytest.approx(0.512, abs=0.001)
    assert records[0].prompt == "When does bloom by troye sivan come out?"


def test_pandalm(public_data: Path) -> None:
    records = pandalm(public_data / "pandalm.jsonl.gz")
    assert len(records) == 999
    judgements = [record.judgements[0] for record in records]
    assert {judgement.votes for judgement in judgements} == {3.0}
    assert sum(3.0 in (j.i_wins, j.j_wins, j.ties) for j in judgements) == 879
    assert sum(j.ties >= 2 for j in judgements) == 105
    assert sum(text == "true" for record in records for text in record.responses) == 6
    assert len(merge_by_prompt(records)) == 170


def test_autoj(public_data: Path) -> None:
    records = autoj(public_data / "autoj.jsonl.gz")
    assert (len(records), len(merge_by_prompt(records))) == (1_392, 1_182)
    assert len(decided(records)) == 1_392 - 373
    assert length_rule(records).value == pytest.approx(0.718, abs=0.002)
    assert sum(pair.direction > 0 for pair in decided(records)) == 520


def test_ethics(public_data: Path) -> None:
    train, test = (ethics(public_data / f"ethics-util-{part}.jsonl.gz") for part in ("train", "test"))
    assert (len(train), len(test)) == (13_738, 4_808)
    assert not any(record.has_prompt for record in train)
    assert first_place_wins(train) == pytest.approx(0.5, abs=0.02)
    leakage = check_leakage(train, test)
    # 1,642 with the exact text; a few more differ in case or white space.
    assert 1_642 <= leakage.response.count <= 1_650
    assert leakage.pair.count >= 33
    parts = split(train, (0.9, 0.1, 0.0))
    assert check_leakage(parts.train, parts.validation).sentence.count == 0
    assert len(parts.validation) / len(train) == pytest.approx(0.1, abs=0.02)


def test_hygiene_of_real_data(public_data: Path) -> None:
    report = check(autoj(public_data / "autoj.jsonl.gz"))
    assert (report.identical_responses.count, report.identical_decided.count) == (9, 1)


DEBATE = {"id": "t/a1_a2", "topic": "t", "title": "T", "stance": "S", "a": "x", "b": "y", "strict": "b"}


def test_skip_is_no_vote(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "convarg.jsonl.gz",
        {**DEBATE, "votes": [[0, "a"], [1, "skip"]]},
        {**DEBATE, "id": "t/a1_a3", "b": "z", "votes": [[0, "skip"]], "strict": None},
    )
    (record,) = convarg(path)
    assert record.responses == ["x", "y", "z"]
    assert [judgement.votes for judgement in record.judgements] == [1]
    assert [judgement.j_wins for judgement in convarg_strict(path)[0].judgements] == [1]


@pytest.mark.parametrize(
    ("read", "row", "reason"),
    [
        (convarg, {**DEBATE, "votes": [[0, "c"]]}, r"votes\[0\] must be \[annotator"),
        (convarg, {**DEBATE, "votes": [], "id": "a1"}, "does not end in two argument ids"),
        (convarg_strict, {**DEBATE, "strict": "tie"}, "column 'strict' is 'tie', not one of 'a', 'b'"),
        (autoj, {"label": True}, "gz:1: column 'label' is True, not one of 0, 1, 2"),
        (pandalm, {"annotator1": 3}, "gz:1: column 'annotator1' is 3"),
        (ethics, {"pleasant": "a"}, "gz:1: column 'less' is missing"),
        (hh_harmless, {"chosen": "a", "rejected": "b"}, "gz:1: chosen has no"),
        (
            qa_feedback,
            {
                "id": "q",
                "question": "q",
                "answers": ["a", "b"],
                "comparisons": [{"i": 0, "j": 1, "preferred": "k"}],
            },
            "gz:1: column 'preferred' is 'k'",
        ),
    ],
)
def test_unexpected_rows(tmp_path: Path, read: Any, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(write_rows(tmp_path / "rows.jsonl.gz", row))
