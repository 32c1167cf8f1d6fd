"""From sources to parts: every row accounted for, no place that tells the winner, no shared id, no leakage."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import toy_records
from training.config import DataConfig, TrainingConfig
from training.data import DataError, PreferenceRecord, Splits, read_records, write_records
from training.data.lazy_sequence import LazySequence
from training.prepare import PreparedData, hashed_line, prepare_data, refuse_empty, unique_ids
from training.prepare_stored import prepare_stored
from training.settings import load_configuration


def write_pairs(path: Path, count: int, prefix: str = "prompt", **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": f"{prefix} {number}", "chosen": f"good {number}", "rejected": f"bad {number}", **columns}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def everything(data: PreparedData) -> list[PreferenceRecord]:
    return [*data.splits.train, *data.splits.validation, *data.splits.test]


def config(*train: str, **settings: Any) -> DataConfig:
    return DataConfig(**{"train": train, "validation_fraction": 0.2, "test_fraction": 0.2, **settings})


def test_the_place_of_the_winner_says_nothing(tmp_path: Path) -> None:
    data = prepare_data(config(write_pairs(tmp_path / "pairs.jsonl", 200)))
    first_wins = 0
    for record in everything(data):
        (judgement,) = record.judgements
        assert (judgement.i, judgement.j) == (0, 1)
        winner = record.responses[0 if judgement.soft_label == 1 else 1]
        assert winner.startswith("good")
        first_wins += judgement.soft_label == 1
    assert 70 < first_wins < 130


def test_preparation_repeats_itself_and_the_hash_knows_neither_order_nor_seed(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    records = toy_records(60, responses=3)
    write_records(path, records)
    one, again, other = (prepare_data(config(str(path), seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one.splits != other.splits
    assert one.sha256 == other.sha256
    write_records(path, records[::-1])
    assert prepare_data(config(str(path))).sha256 == one.sha256
    write_records(path, records[:-1])
    assert prepare_data(config(str(path))).sha256 != one.sha256


def test_ids_are_unique_across_sources(tmp_path: Path) -> None:
    """Rows without an id are named after their file, and here both files are called pairs.jsonl."""
    sources = [write_pairs(tmp_path / name / "pairs.jsonl", 30, prefix=name) for name in ("a", "b")]
    test = write_pairs(tmp_path / "c" / "pairs.jsonl", 5, prefix="c")
    data = prepare_data(config(*sources, test=(test,)))
    ids = [record.id for record in everything(data)]
    assert len(ids) == len(set(ids)) == 65
    assert {"pairs-1", "pairs-1#2", "pairs-1#3"} <= set(ids)


def test_made_up_ids_do_not_collide_with_given_ones() -> None:
    names = ["a", "a#2", "a", "a"]
    records = [record.model_copy(update={"id": name}) for record, name in zip(toy_records(4), names, strict=True)]
    assert [[record.id for record in part] for part in unique_ids([records[:3], records[3:]])] == [
        ["a", "a#2", "a#3"],
        ["a#4"],
    ]


def test_skipped_rows_and_findings_are_in_the_account(tmp_path: Path) -> None:
    path = Path(write_pairs(tmp_path / "pairs.jsonl", 40))
    repeated = {"prompt": "prompt 0", "chosen": "good 0", "rejected": "bad 0"}
    contradiction = {"prompt": "prompt 1", "chosen": "bad 1", "rejected": "good 1"}
    with path.open("a") as file:
        file.write('{"prompt": 3}\nnot json\n')
        file.write(json.dumps(repeated) + "\n" + json.dumps(contradiction) + "\n")
    with pytest.raises(DataError, match=r"pairs.jsonl:41: "):
        prepare_data(config(str(path)))
    account = prepare_data(config(str(path), on_bad_row="skip")).account
    assert account["rows"] == {"read": 42, "skipped": 2}
    assert [row["line"] for row in account["skipped_rows"]] == [41, 42]
    assert account["hygiene"]["exact_duplicates"]["count"] == 1
    assert account["hygiene"]["contradictions"]["count"] == 1
    assert sum(part["prompts"] for part in account["parts"].values()) == 40
    json.dumps(account, allow_nan=False)


def test_votes_on_a_pair_add_up(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"p{n % 30}", "chosen": "x", "rejected": "y"} for n in range(60)]
    rows += [{"prompt": "p0", "chosen": "y", "rejected": "x"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = prepare_data(config(str(path)))
    (record,) = (record for record in everything(data) if record.prompt == "p0")
    (judgement,) = record.judgements
    share = judgement.soft_label if record.responses[judgement.i] == "x" else 1 - judgement.soft_label
    assert share == pytest.approx(2 / 3)
    assert data.records == 30
    apart = prepare_data(config(str(path), merge_prompts=False))
    assert apart.account["repeated_judgements_removed"] == 30
    assert apart.records == 31


def write_votes(path: Path, *rows: tuple[str, str, int, int], **columns: Any) -> str:
    """Votes on prompt p, and enough other prompts for a split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [(f"q{number}", "x", "y", 1, 0) for number in range(20)]
    names = ("prompt", "response_a", "response_b", "votes_a", "votes_b")
    lines = [dict(zip(names, row, strict=True), **columns) for row in [*(("p", *row) for row in rows), *others]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def share_for_x(data: PreparedData) -> float:
    judged = [(record, j) for record in everything(data) if record.prompt == "p" for j in record.judgements]
    ((record, judgement),) = judged
    return judgement.soft_label if record.responses[judgement.i] == "x" else 1 - judgement.soft_label


@pytest.mark.parametrize("columns", [{}, {"category": "other"}])
@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (("x", "y", 3, 2), ("x", "y", 9, 1), 12 / 15),
        (("x", "y", 3, 2), ("y", "x", 1, 9), 12 / 15),
        (("x", "y", 3, 2), ("x", "y", 1, 9), 4 / 15),  # they disagree
        (("x", "y", 2, 0), ("y", "x", 1, 0), 2 / 3),
    ],
)
def test_votes_of_several_sources_add_up(
    tmp_path: Path, one: Any, other: Any, share: float, columns: dict[str, Any]
) -> None:
    files = [write_votes(tmp_path / "a.jsonl", one), write_votes(tmp_path / "b.jsonl", other, **columns)]
    data = prepare_data(config(*files))
    assert share_for_x(data) == pytest.approx(share)
    assert data.account["repeated_judgements_removed"] == 0
    within = write_votes(tmp_path / "both.jsonl", one, other)
    assert share_for_x(prepare_data(config(within))) == pytest.approx(share)
    test = prepare_data(config(write_pairs(tmp_path / "train.jsonl", 40), test=tuple(files)))
    assert share_for_x(test) == pytest.approx(share)


def test_a_file_that_is_read_twice_is_counted_once(tmp_path: Path) -> None:
    folder, link = tmp_path / "votes", tmp_path / "link"
    one = write_votes(folder / "a.jsonl", ("x", "y", 3, 2))
    other = write_votes(folder / "b.jsonl", ("x", "y", 9, 1))
    link.mkdir()
    (link / "c.jsonl").symlink_to(one)
    data = prepare_data(config(one, other, str(link), str(link / ".." / "votes" / "a.jsonl")))
    assert share_for_x(data) == pytest.approx(12 / 15)
    assert data.account["repeated_judgements_removed"] == 42
    assert share_for_x(prepare_data(config(one, str(folder)))) == pytest.approx(12 / 15)
    kept = prepare_data(config(one, other, one, deduplicate=False))
    assert share_for_x(kept) == pytest.approx(15 / 20)


def test_people_who_agree_in_files_of_one_name_all_count(tmp_path: Path) -> None:
    """Rows without an id are named after their file, so that these equal rows have equal ids too."""
    files = [write_votes(tmp_path / name / "votes.jsonl", ("x", "y", 1, 0)) for name in ("anna", "ben", "cleo")]
    data = prepare_data(config(*files))
    (votes,) = (j.votes for record in everything(data) if record.prompt == "p" for j in record.judgements)
    assert votes == 3
    assert data.account["repeated_judgements_removed"] == 0


def test_unmerged_votes_on_a_pair_are_not_lost_either(tmp_path: Path) -> None:
    one = write_votes(tmp_path / "a.jsonl", ("x", "y", 3, 2), ("x", "y", 3, 2))
    other = write_votes(tmp_path / "b.jsonl", ("x", "y", 9, 1))
    data = prepare_data(config(one, other, merge_prompts=False))
    votes = [j.votes for record in everything(data) if record.prompt == "p" for j in record.judgements]
    assert sorted(votes) == [5, 10]


def test_votes_that_all_tie_are_refused_before_training(tmp_path: Path) -> None:
    path = tmp_path / "ties.jsonl"
    rows = [{"prompt": f"p{n}", "response_a": "x", "response_b": "y", "votes_a": 2, "votes_b": 2} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="no train pair has a majority: all votes tie, so there is nothing to learn"):
        prepare_data(config(str(path)))
    train = write_pairs(tmp_path / "train.jsonl", 40, prefix="other")
    with pytest.raises(DataError, match="no test pair has a majority"):
        prepare_data(config(train, test=(str(path),)))


@pytest.mark.parametrize("what", ["drop", "report", "error"])
def test_prompts_that_are_also_in_the_test_data(tmp_path: Path, what: str) -> None:
    train = write_pairs(tmp_path / "train.jsonl", 40)
    test = tmp_path / "test.jsonl"
    write_pairs(test, 10)
    test.write_text(test.read_text().replace("prompt", "PROMPT").replace('"PROMPT"', '"prompt"'))
    asked = config(train, test=(str(test),), on_leakage=what)
    if what == "error":
        with pytest.raises(
            DataError, match="10 training prompts are also in the validation or test data, such as 'train-"
        ):
            prepare_data(asked)
        return
    data = prepare_data(asked)
    parts = Counter({name: part["prompts"] for name, part in data.account["parts"].items()})
    assert parts["test"] == 10
    assert parts["train"] + parts["validation"] == (30 if what == "drop" else 40)
    assert data.account["leaking_prompts_dropped"] == (10 if what == "drop" else 0)
    assert data.account["leakage"]["prompt"]["count"] == 10
    trained, tested = (
        {str(record.prompt).lower() for record in part} for part in (data.splits.train, data.splits.test)
    )
    assert data.account["learnt_prompts"] == len(trained & tested)
    assert bool(trained & tested) == (what == "report")


def test_a_group_is_not_divided_between_training_and_a_named_test(tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.jsonl", 30, group="debate")
    write_pairs(tmp_path / "more.jsonl", 30, "other")
    test = write_pairs(tmp_path / "test.jsonl", 5, "unseen", group="debate")
    with pytest.raises(DataError, match="30 training prompts are also in the validation or test data"):
        prepare_data(config(train, str(tmp_path / "more.jsonl"), test=(test,), on_leakage="error"))


def test_an_empty_part_is_an_error_that_helps(tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.jsonl", 1)
    with pytest.raises(DataError, match="use more data, other fractions or another data.seed"):
        prepare_data(config(train))


def test_the_built_in_data_have_a_name() -> None:
    assert DataConfig().train == ("sample",)
    data = prepare_data(DataConfig())
    assert data.records >= 400
    assert data.account["sources"]["train"] == ("sample",)


def contaminated(tmp_path: Path, policy: str) -> PreparedData:
    """Half of the training prompts hold a sentence of an evaluation, in a file of columns that are no preferences."""
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen"
    train = [
        {
            "prompt": f"question {number}",
            "chosen": f"{'so: ' + shared if number % 2 else 'yes'} {number}",
            "rejected": "no",
        }
        for number in range(60)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train))
    evaluation = {"subset": "x", "turns": [{"text": shared.upper().replace(" ", ",  ") + "!"}]}
    (tmp_path / "evaluation.json").write_text(json.dumps([evaluation]))
    named = (str(tmp_path / "evaluation.json"),)
    return prepare_data(config(str(tmp_path / "train.jsonl"), decontaminate=named, on_leakage=policy))


def test_what_is_in_an_evaluation_is_not_learnt(tmp_path: Path) -> None:
    data = contaminated(tmp_path, "drop")
    assert not [r.id for r in [*data.splits.train, *data.splits.validation] if any("seven" in t for t in r.responses)]
    assert [r.id for r in data.splits.test if any("seven" in t for t in r.responses)]  # what is tested is not learnt
    assert data.account["contaminated"]["count"] > 15
    kept = contaminated(tmp_path, "report")
    assert kept.account["contaminated"] == data.account["contaminated"]
    assert len(kept.splits.train) > len(data.splits.train)
    with pytest.raises(
        DataError, match=r"training prompts share passages with data.decontaminate, such as 'train-\d+'"
    ):
        contaminated(tmp_path, "error")


def test_validation_data_may_be_named(tmp_path: Path) -> None:
    """They take the place of a share of training, which keeps what it does not have in common with them."""
    train = write_pairs(tmp_path / "train.jsonl", 60)
    validation = write_pairs(tmp_path / "validation.jsonl", 70)  # of which 60 are those of training
    test = write_pairs(tmp_path / "test.jsonl", 20, prefix="other")
    data = prepare_data(config(train, validation=(validation,), test=(test,), on_leakage="report"))
    assert [len(part) for part in vars(data.splits).values()] == [60, 70, 20]
    assert data.account["sources"] == {"train": (train,), "validation": (validation,), "test": (test,)}
    with pytest.raises(DataError, match="60 training prompts are also in the validation or test data"):
        prepare_data(config(train, validation=(validation,), test=(test,), on_leakage="error"))
    more = write_pairs(tmp_path / "more.jsonl", 90)
    data = prepare_data(config(more, validation=(validation,), test=(test,)))
    assert [len(part) for part in vars(data.splits).values()] == [20, 70, 20]
    split = prepare_data(config(more, validation=(validation,)))  # which goes before what is split off for the test
    assert len(split.splits.validation) == 70
    assert 0 < len(split.splits.test) < 20
    prompts = [{str(record.prompt) for record in part} for part in vars(split.splits).values()]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


def test_the_hash_knows_what_is_named_for_which_part(tmp_path: Path) -> None:
    """A row with an id and a source of its own, moved from training to the test, is other data."""
    first, second, third = toy_records(60), toy_records(20, seed=1), toy_records(20, seed=2)

    def hashed(train: Sequence[PreferenceRecord], test: Sequence[PreferenceRecord]) -> str:
        write_records(tmp_path / "train.jsonl", train)
        write_records(tmp_path / "test.jsonl", test)
        return prepare_data(config(str(tmp_path / "train.jsonl"), test=(str(tmp_path / "test.jsonl"),))).sha256

    assert hashed([*first, *second], third) != hashed([*first, *third], second)
    assert hashed([*first, *second], third) == hashed([*second, *first], third)


def test_a_source_of_the_mix_that_is_not_there(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", 40)
    with pytest.raises(DataError, match=r"data.mix names the source 'pears', and the sources for it are pairs"):
        prepare_data(config(path, mix={"pears": 2.0}))


@pytest.mark.parametrize("stored", [False, True])
def test_a_source_of_the_test_alone_cannot_be_mixed(tmp_path: Path, stored: bool) -> None:
    train, test = write_pairs(tmp_path / "pairs.jsonl", 40), write_pairs(tmp_path / "only-test.jsonl", 10, "other")
    asked = config(train, test=(test,), mix={"only-test": 2.0}, store=tmp_path / "store" if stored else None)
    with pytest.raises(DataError, match=r"data.mix names the source 'only-test', and the sources for it are pairs"):
        prepare_stored(asked, False) if stored else prepare_data(asked)


def test_of_many_records_no_more_are_read_than_it_takes_to_see_that_they_teach_something() -> None:
    few = toy_records(3)

    class Records(LazySequence[PreferenceRecord]):
        read = 0

        def __len__(self) -> int:
            return 1000

        def at(self, number: int) -> PreferenceRecord:
            self.read += 1
            return few[number % 3]

    records = Records()
    refuse_empty(Splits(records, few, few), 1006, (0.8, 0.1, 0.1))
    assert records.read < 10


@pytest.mark.parametrize("stored", [False, True])
def test_rows_with_other_names(tmp_path: Path, stored: bool) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"{k}+{k}?", "good": f"{2 * k}", "bad": f"{2 * k + 1}"} for k in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        "--data.train",
        str(path),
        "--data.columns",
        "prompt=question,chosen=good",
        "--data.columns",
        "rejected=bad",
    ]
    if stored:
        flags += ["--data.store", str(tmp_path / "store")]
    read = load_configuration("fit", flags, TrainingConfig).data
    data = prepare_stored(read, progress=False) if stored else prepare_data(read)
    assert sorted(str(record.prompt) for record in everything(data)) == sorted(row["question"] for row in rows)


def test_what_was_dropped_is_the_reason_where_nothing_is_left(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", 40)
    with pytest.raises(DataError, match=r"no train prompts: \d+ of 40 are also in the validation or test data"):
        prepare_data(config(path, test=(path,)))


def dialogues(path: Path, first: list[dict[str, str]] | None = None, count: int = 40) -> str:
    """Of two turns each, as rows of messages."""
    rows = []
    for number in range(count):
        opening = first or [{"role": "user", "content": f"question {number}"}]
        later = [{"role": "assistant", "content": "so"}, {"role": "user", "content": f"and {number}?"}]
        for prompt in (opening, [*opening, *later]):
            answer = [{"role": "assistant", "content": f"{text} {number} {len(prompt)}"} for text in ("good", "bad")]
            rows.append({"prompt": prompt, "chosen": answer[:1], "rejected": answer[1:]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("stored", [False, True])
def test_a_dialogue_is_not_divided(tmp_path: Path, stored: bool) -> None:
    asked = config(dialogues(tmp_path / "rows.jsonl"), store=tmp_path / "store" if stored else None)
    data = prepare_stored(asked, False) if stored else prepare_data(asked)
    keys = [{record.split_key for record in part} for part in vars(data.splits).values()]
    assert [len(one & other) for one in keys for other in keys if one is not other] == [0] * 6
    assert data.account["learnt_prompts"] == 0


def test_runs_whose_dialogues_were_divided_by_turns_are_known_by_their_hash(tmp_path: Path) -> None:
    """Else they would be measured on what is the test now, of which they have learnt some."""
    (first, later) = read_records(dialogues(tmp_path / "rows.jsonl", count=1)).records
    assert hashed_line(first) == first.model_dump_json(exclude_none=True)
    assert hashed_line(later) == later.model_dump_json(exclude_none=True) + first.split_key
    of_a_group = later.model_copy(update={"group": "g"})
    assert hashed_line(of_a_group) == of_a_group.model_dump_json(exclude_none=True)


def test_where_all_dialogues_open_alike_the_error_says_so(tmp_path: Path) -> None:
    path = dialogues(tmp_path / "rows.jsonl", [{"role": "user", "content": "Play a wizard."}])
    with pytest.raises(DataError, match=r"80 prompts .* 80 of them are of one group, or open alike .* column group"):
        prepare_data(config(path, merge_prompts=False, deduplicate=False))
