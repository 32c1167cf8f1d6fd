"""Parts of the pairs by what they are, and the mistakes among them."""

import numpy as np
import pytest

from tests.pocket import pocket_formatter
from training.data import Judgement, PreferenceRecord
from training.encoding import Example, encode_records
from training.evaluation.evaluate import JudgedPairs, judged_pairs
from training.evaluation.metrics import FloatArray
from training.evaluation.mistakes import MOST_CHARACTERS, hardest_mistakes, shortened
from training.evaluation.slices import slices


def record(
    number: int, lengths: tuple[int, int], votes: tuple[int, int], source: str = "s", category: str | None = None
) -> PreferenceRecord:
    return PreferenceRecord(
        id=f"r{number}", prompt=f"prompt {number}", responses=["x" * length for length in lengths], source=source,
        category=category, judgements=[Judgement(i=0, j=1, i_wins=votes[0], j_wins=votes[1])],
    )  # fmt: skip


def decided(records: list[PreferenceRecord], scores: list[FloatArray]) -> tuple[list[Example], JudgedPairs]:
    examples = encode_records(records, pocket_formatter(), progress=False)
    pairs = judged_pairs(examples, scores)
    return examples, pairs.select(pairs.preference != 0.5)


def test_pairs_are_told_apart_by_what_they_are() -> None:
    records = [
        *(record(n, (10, 40), (1, 0), "one", "a") for n in range(6)),  # the shorter wins, one vote
        *(record(n, (40, 10), (5, 0), "two", "b") for n in range(10, 17)),  # the longer, all of five
        *(record(n, (40, 36), (3, 2), "two") for n in range(20, 28)),  # about as long, three of five
        record(30, (10, 10), (3, 1), "three"),  # one prompt is no part
    ]
    scores = [np.array([1.0, 0.0])] * 6 + [np.array([0.0, 1.0])] * 7 + [np.array([1.0, 0.0])] * 9
    found = slices(*decided(records, scores))
    shown = {
        dimension: {part.name: (part.pairs, part.accuracy.value, part.length_rule) for part in parts}
        for dimension, parts in found.items()
    }
    assert shown["source"] == {"one": (6, 1.0, 0.0), "two": (15, pytest.approx(8 / 15), 1.0)}
    assert shown["category"] == {"a": (6, 1.0, 0.0), "b": (7, 0.0, 1.0)}
    assert shown["votes for the preferred response"] == {
        "one vote": (6, 1.0, 0.0), "all": (7, 0.0, 1.0), "fewer": (8, 1.0, 1.0),
    }  # fmt: skip
    assert shown["whether the preferred response is longer"] == {
        "longer": (15, pytest.approx(8 / 15), 1.0), "shorter": (6, 1.0, 0.0),
    }  # fmt: skip
    assert shown["how close the two lengths are"] == {
        "1: within 25 %": (9, 1.0, pytest.approx(8.5 / 9)),
        "3: the shorter has under 50 %": (13, pytest.approx(6 / 13), pytest.approx(7 / 13)),
    }  # fmt: skip


def test_pairs_are_told_apart_by_what_is_wrong_with_the_worse_response() -> None:
    records = [
        record(n, (10, 10), (1, 0) if n % 2 else (0, 1)).model_copy(
            update={"qualities": ["good", bad] if n % 2 else [bad, "good"]}
        )
        for n, bad in enumerate(["curt"] * 6 + ["wrong"] * 8)
    ]
    scores = [np.array([1.0, 0.0]) if n % 2 or n < 6 else np.array([0.0, 1.0]) for n in range(14)]
    parts = slices(*decided(records, scores))["quality of the other response"]
    assert [(part.name, part.pairs, part.accuracy.value) for part in parts] == [("curt", 6, 0.5), ("wrong", 8, 1.0)]


def test_a_dimension_of_one_part_is_left_out() -> None:
    records = [record(n, (10, 40), (1, 0)) for n in range(8)]
    found = slices(*decided(records, [np.array([1.0, 0.0])] * 8))
    assert found == {}


def test_quarters_of_length_hold_all_pairs() -> None:
    records = [record(n, (10 + 10 * n, 5), (1, 0)) for n in range(40)]
    parts = slices(*decided(records, [np.array([1.0, 0.0])] * 40))["length of the longer response"]
    assert [part.pairs for part in parts] == [10] * 4
    assert parts[0].name.startswith("1: 0 to ")
    assert parts[-1].name.endswith(" characters and more")


def test_mistakes_come_surest_first_one_of_a_prompt() -> None:
    records = [record(n, (10 + n, 40 + n), (4, 1)) for n in range(20)]
    margins = [-0.1 * n if n % 2 else 0.1 * n for n in range(20)]
    examples, pairs = decided(records, [np.array([margin, 0.0]) for margin in margins])
    found = hardest_mistakes(examples, pairs, temperature=0.5, count=3)
    assert [mistake.record for mistake in found] == ["r19", "r17", "r15"]
    assert found[0].probability == pytest.approx(1 / (1 + np.exp(1.9 / 0.5)))
    assert (found[0].votes_for, found[0].votes_against) == (4, 1)
    assert (found[0].preferred, found[0].rejected) == ("x" * 29, "x" * 59)
    assert found[0].prompt == "user: prompt 19"
    two = record(0, (10, 40), (1, 0)).model_copy(
        update={"judgements": [Judgement(i=0, j=1, i_wins=1, j_wins=0), Judgement(i=1, j=0, i_wins=0, j_wins=2)]}
    )
    examples, pairs = decided([two], [np.array([0.0, 1.0])])
    assert len(hardest_mistakes(examples, pairs, 1.0)) == 1


def test_a_record_without_a_prompt_shows_none() -> None:
    blank = record(0, (10, 40), (1, 0)).model_copy(update={"prompt": ""})
    examples, pairs = decided([blank], [np.array([0.0, 1.0])])
    assert [mistake.prompt for mistake in hardest_mistakes(examples, pairs, 0.001)] == [""]


def test_a_model_without_mistakes_has_none() -> None:
    examples, pairs = decided([record(0, (10, 40), (1, 0))], [np.array([1.0, 0.0])])
    assert hardest_mistakes(examples, pairs, 1.0) == []


def test_long_texts_keep_both_ends() -> None:
    assert shortened("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    text = shortened("a" * 3000 + "b" * 3000)
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "[... 4000 characters ...]" in text
