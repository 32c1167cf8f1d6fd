"""Passages are told whatever their dress, and only long ones count."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import DataError, Judgement, Message, PreferenceRecord
from training.data.contamination import PASSAGE_WORDS, Passages, read_passages

WORDS = st.lists(st.sampled_from([f"w{k}" for k in range(200)]), min_size=PASSAGE_WORDS, max_size=40)


def record(prompt: str | list[Message], *responses: str) -> PreferenceRecord:
    return PreferenceRecord(
        id="a",
        prompt=prompt,
        responses=list(responses),
        judgements=[Judgement(i=0, j=1, i_wins=1, j_wins=0)],
        source="s",
    )


@given(WORDS, WORDS, WORDS, st.data())
def test_any_thirteen_words_in_a_row_are_found(
    before: list[str], known: list[str], after: list[str], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(known) - PASSAGE_WORDS))
    text = " ".join([*before, *known[start : start + PASSAGE_WORDS], *after])
    assert _passages_of({"x": " ".join(known)}).hold(text)


def _passages_of(row: object) -> Passages:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.jsonl.gz"
        with gzip.open(path, "wt") as stream:
            stream.write(json.dumps(row) + "\n")
        return read_passages([str(path)])


def test_prompt_and_responses_of_a_record_are_looked_at_in_every_turn() -> None:
    passages = _passages_of({"chosen": [{"role": "user", "content": "What is the tallest hill of Rutland?"}]})
    turns = [
        Message(role="user", content="what is  the tallest hill of RUTLAND"),
        Message(role="assistant", content="?"),
    ]
    assert passages.shared_by(record(turns, "one", "two"))
    assert passages.shared_by(record("p", "one", "What is the tallest hill of Rutland?"))
    assert not passages.shared_by(
        record("What is the tallest hill of Rutland, say?", "one", "two")
    )  # short: as a whole


def test_what_anybody_says_is_no_passage() -> None:
    assert not _passages_of({"a": "Yes, of course I can.", "b": 3, "c": None}).shared_by(
        record("p", "Yes, of course I can.", "b")
    )


def test_a_short_prompt_with_its_response_is_one() -> None:
    """In whatever columns or turns; what a short text is said to elsewhere does not count."""
    for row in (
        {"question": "What is 3 times 4?", "good": "It is 12.", "bad": "It is 13."},
        {"chosen": "\n\nHuman: What is 3 times 4?\n\nAssistant: It is 12."},
        {"messages": [{"role": "user", "content": "what is 3 TIMES 4"}, {"role": "assistant", "content": "it is 12"}]},
    ):
        passages = _passages_of(row)
        assert passages.shared_by(record("What is 3 times 4?", "No idea", "It is 12"))
        assert not passages.shared_by(record("What is 4 times 3?", "No idea", "It is 12"))
        assert not passages.shared_by(record("What is 3 times 4?", "No idea", "Who asks?"))


def test_a_bad_evaluation_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"a": 1}\n{')
    with pytest.raises(DataError, match=r"e\.jsonl:2: invalid JSON"):
        read_passages([str(tmp_path / "e.jsonl")])


def test_a_text_without_spaces_has_words_too() -> None:
    sentence = "最も高い山は富士山であり日本の中央にあってとても美しい山である"
    assert _passages_of({"q": sentence}).hold(f"ところで、{sentence}。")
    assert not _passages_of({"q": sentence}).hold("最も高い山")
    assert _passages_of({"q": sentence}).hold(" ".join(["word"] * 60) + sentence)  # in a text of another script
    for said in ("好的，我明白了", "はい、もちろんです", "네, 알겠습니다"):  # as "Yes, of course"
        assert not _passages_of({"q": said}).hold(said)


def test_dress_is_ignored() -> None:
    words = [f"mot{k}" for k in range(12)]
    passages = _passages_of({"q": " ".join([*words, "caf\u00e9"])})
    assert passages.hold(" ".join([*(f"_{word}_" for word in words), "CAFE\u0301!"]))


def test_a_system_prompt_is_no_passage() -> None:
    """One that an evaluation shares with a data set would contaminate all of that."""
    system = "You are a helpful assistant who answers every question as well as it can be answered."
    passages = _passages_of({"messages": [{"role": "system", "content": system}]})
    turns = [Message(role="system", content=system), Message(role="user", content="?")]
    assert not passages.shared_by(record(turns, "one", "two"))


def test_the_hash_is_of_the_texts() -> None:
    one, other = _passages_of({"q": "a b c"}), _passages_of({"q": "a b d"})
    assert one.sha256 != other.sha256
    assert one.sha256 == _passages_of({"q": "a b c"}).sha256


def test_a_dialogue_in_one_text_is_its_turns() -> None:
    passages = _passages_of(
        {"chosen": "\n\nHuman: What is the tallest hill of Rutland?\n\nAssistant: It is a small one."}
    )
    assert passages.hold("What is the tallest hill of Rutland?")
