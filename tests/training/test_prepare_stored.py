"""A stream to disk gives what memory gives, and is found again."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.test_prepare import config, write_pairs
from training.config import DataConfig
from training.data import DataError, PreferenceRecord, record_store
from training.data.record_store import RecordStore
from training.prepare import prepare_data
from training.prepare_stored import prepare_stored


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_store, "SHARD_RECORDS", 7)


def stored(tmp_path: Path, *train: str, **settings: Any) -> DataConfig:
    return config(*train, store=tmp_path / "store", **settings)


def by_id(records: Any) -> dict[str, PreferenceRecord]:
    return {record.id: record for record in records}


@pytest.mark.parametrize("named_validation", [False, True])
@pytest.mark.parametrize("named_test", [False, True])
def test_the_parts_are_those_of_memory(tmp_path: Path, named_test: bool, named_validation: bool) -> None:
    sources = [write_pairs(tmp_path / "a.jsonl", 60), write_pairs(tmp_path / "b.jsonl", 40, "other")]
    test = (write_pairs(tmp_path / "test.jsonl", 30, "other"),) if named_test else ()
    validation = (write_pairs(tmp_path / "validation.jsonl", 25),) if named_validation else ()
    named = {"validation": validation, "test": test}
    streamed = prepare_stored(stored(tmp_path, *sources, **named, seed=3), progress=False)
    whole = prepare_data(config(*sources, **named, seed=3))
    assert isinstance(streamed.splits.train, RecordStore)
    assert len(list((streamed.splits.train.folder).glob("*.arrow"))) > 3
    for part in ("train", "validation", "test"):
        assert by_id(getattr(streamed.splits, part)) == by_id(getattr(whole.splits, part)), part
    assert streamed.account["parts"] == whole.account["parts"]
    assert streamed.account["leaking_prompts_dropped"] == whole.account["leaking_prompts_dropped"]
    if not named_validation:
        assert whole.account["leaking_prompts_dropped"] == 30 * named_test


def test_a_store_is_any_sequence(tmp_path: Path) -> None:
    store = prepare_stored(stored(tmp_path, write_pairs(tmp_path / "a.jsonl", 60)), False).splits.train
    assert list(store) == [store[number] for number in range(len(store))]
    assert store[5:9] == [store[number] for number in range(5, 9)]
    for number in (-1, len(store)):
        with pytest.raises(IndexError):
            store[number]


def test_what_was_prepared_is_found_again_until_a_file_or_a_setting_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pairs(tmp_path / "a.jsonl", 60)
    first = prepare_stored(stored(tmp_path, path), False)
    with monkeypatch.context() as patch:
        patch.setattr("training.prepare_stored.Reading", None)  # nothing is read again
        again = prepare_stored(stored(tmp_path, path), False)
    assert (again.sha256, again.account) == (first.sha256, json.loads(json.dumps(first.account)))
    assert list(again.splits.train) == list(first.splits.train)
    assert prepare_stored(stored(tmp_path, path, seed=1), False).splits.test != first.splits.test
    write_pairs(tmp_path / "a.jsonl", 61)
    assert prepare_stored(stored(tmp_path, path), False).account["rows"]["read"] == 61


def test_what_was_interrupted_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pairs(tmp_path / "a.jsonl", 60)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.prepare_stored.write_records", fail)
        with pytest.raises(OSError, match="No space left"):
            prepare_stored(stored(tmp_path, path), False)
    assert prepare_stored(stored(tmp_path, path), False).account["rows"]["read"] == 60


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_neighbours_of_one_prompt_are_one_record_and_their_votes_add_up(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{k}", "chosen": "good", "rejected": "bad"} for k in range(40) for _ in range(3)]
    rows += [{"prompt": f"q{k}", "chosen": f"good {n}", "rejected": "bad"} for k in range(40) for n in range(3)]
    data = prepare_stored(stored(tmp_path, write_rows(tmp_path / "a.jsonl", rows), validation_fraction=0.1), False)
    for record in data.splits.train:
        assert len(record.responses) == (2 if str(record.prompt).startswith("p") else 4)
        assert sum(judgement.votes for judgement in record.judgements) == 3
    assert data.account["repeated_judgements_removed"] == 0


def test_people_who_agree_in_two_files_all_count_and_a_file_that_is_named_twice_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{k}", "chosen": "good", "rejected": "bad"} for k in range(60)]
    a, b = (write_rows(tmp_path / name, rows) for name in ("a.jsonl", "b.jsonl"))
    (tmp_path / "link.jsonl").symlink_to(a)
    data = prepare_stored(stored(tmp_path, a, b, str(tmp_path / "link.jsonl"), a), False)
    assert sum(size["judgements"] for size in data.account["parts"].values()) == 120
    assert data.account["repeated_judgements_removed"] == 120
    apart = prepare_stored(stored(tmp_path, a, b, merge_prompts=False), False)
    assert sum(size["judgements"] for size in apart.account["parts"].values()) == 60  # the same pair, the same votes
    assert apart.account["repeated_judgements_removed"] == 60


def test_two_runs_may_prepare_the_same_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = stored(tmp_path, write_pairs(tmp_path / "a.jsonl", 60))
    write = record_store.write_shard
    inside: list[Any] = []

    def meanwhile(path: Path, columns: dict[str, Any]) -> None:
        write(path, columns)
        if path.name == "shard-000001.arrow" and not inside:
            inside.append(None)
            inside[0] = prepare_stored(settings, False)

    monkeypatch.setattr(record_store, "write_shard", meanwhile)
    outer = prepare_stored(settings, False)
    assert list(outer.splits.train) == list(inside[0].splits.train)
    assert outer.account == inside[0].account
    assert len(outer.splits.train) == outer.account["parts"]["train"]["prompts"]
    assert not list((tmp_path / "store").glob("*.part"))


def test_what_went_wrong_leaves_nothing(tmp_path: Path) -> None:
    rows = [*({"prompt": f"p{k}", "chosen": "a", "rejected": "b"} for k in range(60)), {"prompt": "no more"}]
    with pytest.raises(DataError, match=r"a\.jsonl:61"):
        prepare_stored(stored(tmp_path, write_rows(tmp_path / "a.jsonl", rows)), False)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_part_that_is_lost_is_noticed(tmp_path: Path) -> None:
    settings = stored(tmp_path, write_pairs(tmp_path / "a.jsonl", 60))
    store = prepare_stored(settings, False).splits.train
    assert isinstance(store, RecordStore)
    (store.folder / "shard-000001.arrow").unlink()
    with pytest.raises(DataError, match="has lost a part of its records; remove it"):
        prepare_stored(settings, False)


def test_a_mix_is_checked_also_where_the_store_is_found(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "a.jsonl", 60)
    prepare_stored(stored(tmp_path, path, mix={"a": 2.0}), False)
    with pytest.raises(DataError, match="data.mix names the source 'b', and the sources for it are a"):
        prepare_stored(stored(tmp_path, path, mix={"b": 2.0}), False)


def test_leakage_is_counted_where_it_is_only_reported(tmp_path: Path) -> None:
    train, test = write_pairs(tmp_path / "a.jsonl", 60), write_pairs(tmp_path / "test.jsonl", 20)
    data = prepare_stored(stored(tmp_path, train, test=test, on_leakage="report"), False)
    assert data.account["leakage"]["training_prompts_in_what_is_held_out"]["count"] == 20
    assert data.account["leaking_prompts_dropped"] == 0
    assert data.account["learnt_prompts"] is None  # some, and nobody knows how many
    dropped = prepare_stored(stored(tmp_path, train, test=test, on_leakage="drop"), False)
    assert dropped.account["learnt_prompts"] == 0


@pytest.mark.parametrize("policy", ["drop", "report", "error"])
def test_a_prompt_of_several_groups_is_in_one_part_alone(tmp_path: Path, policy: str) -> None:
    """Whatever is wished for data that leak into a test that is named: here none is."""
    rows = [
        {"id": f"{k} {g}", "prompt": f"p{k}", "chosen": f"a{g}", "rejected": "b", "group": f"g{k if g else -k}"}
        for g in range(2)
        for k in range(1, 101)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {"merge_prompts": False, "validation_fraction": 0.2, "test_fraction": 0.2}
    data = prepare_stored(stored(tmp_path, str(tmp_path / "a.jsonl"), on_leakage=policy, **given), False)
    prompts = [{str(record.prompt) for record in part} for part in vars(data.splits).values()]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert set.union(*prompts) == {f"p{k}" for k in range(1, 101)}
    dropped = data.account["hygiene"]["records_dropped_as_another_group_has_their_prompt_in_another_part"]["count"]
    assert 0 < dropped == 200 - sum(map(len, vars(data.splits).values()))


def test_a_data_set_of_the_hub_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hf:someone/set: data\.store reads files"):
        prepare_stored(stored(tmp_path, "hf:someone/set"), False)


def test_long_texts_close_a_shard_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_store, "SHARD_BYTES", 500)
    store = prepare_stored(stored(tmp_path, write_pairs(tmp_path / "a.jsonl", 60)), False).splits.train
    assert isinstance(store, RecordStore)
    assert max(store.shard_sizes) < 5
    assert sum(store.shard_sizes) == len(store) == len(list(store))


def test_ids_that_come_twice(tmp_path: Path) -> None:
    row = {"id": "x", "prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: id 'x' was already used"):
        prepare_stored(stored(tmp_path, str(tmp_path / "a.jsonl")), False)
    sources = [write_pairs(tmp_path / name / "same.jsonl", 30, name) for name in ("one", "two")]
    data = prepare_stored(stored(tmp_path, *sources), False)
    ids = [record.id for part in vars(data.splits).values() for record in part]
    assert len(ids) == len(set(ids)) == 60


def test_contamination_and_leakage_follow_the_policy(tmp_path: Path) -> None:
    words = " ".join(f"word{k}" for k in range(13))
    rows = [{"prompt": f"p{k} {words if k % 2 else ''}", "chosen": "a", "rejected": "b"} for k in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "e.jsonl").write_text(json.dumps({"q": words}) + "\n")
    given = {"decontaminate": str(tmp_path / "e.jsonl"), "validation_fraction": 0.2}
    data = prepare_stored(stored(tmp_path, str(tmp_path / "a.jsonl"), **given), False)
    assert data.account["contaminated"]["count"] > 15
    assert not [r for r in [*data.splits.train, *data.splits.validation] if "word5" in str(r.prompt)]
    with pytest.raises(DataError, match="share passages with data.decontaminate"):
        prepare_stored(stored(tmp_path, str(tmp_path / "a.jsonl"), **given, on_leakage="error"), False)
    again = write_pairs(tmp_path / "pairs.jsonl", 40)
    with pytest.raises(DataError, match="are also in the validation or test data"):
        prepare_stored(stored(tmp_path, again, test=again, on_leakage="error"), False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"test_fraction": 0.0}, "no test prompts"), ({"mix": {"pears": 2.0}}, "data.mix names the source 'pears'")],
)
def test_what_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_stored(stored(tmp_path, write_pairs(tmp_path / "a.jsonl", 60), **settings), False)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    settings = stored(tmp_path, write_pairs(tmp_path / "a.jsonl", 60))
    store = prepare_stored(settings, False).splits.train
    assert isinstance(store, RecordStore)
    (store.folder / "shard-000001.arrow").write_bytes(b"ARROW1 and no more")
    with pytest.raises(ValueError, match=r"shard-000001\.arrow is damaged .*remove its folder"):
        prepare_stored(settings, False)


def test_annotators_need_all_votes_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="store and annotators"):
        stored(tmp_path, "a.jsonl", annotators="dawid-skene")
