"""The record refuses what it cannot mean."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle.text_format import Message
from training.data.record import Judgement, PreferenceRecord

PAIR = {"i": 0, "j": 1, "i_wins": 1, "j_wins": 0}


def record(**changes: Any) -> PreferenceRecord:
    parts = {
        "id": "r",
        "prompt": "p",
        "responses": ["a", "b"],
        "judgements": [PAIR],
        "source": "s",
        **changes,
    }
    return PreferenceRecord.model_validate(parts)


def test_soft_label_counts_ties_half() -> None:
    assert Judgement(i=0, j=1, i_wins=2, j_wins=1, ties=1).soft_label == 0.625
    assert Judgement(i=0, j=1, i_wins=0, j_wins=0, ties=3).soft_label == 0.5


def test_flipping_twice_changes_nothing() -> None:
    judgement = Judgement(i=0, j=1, i_wins=2, j_wins=1, ties=1, margin=0.5)
    assert judgement.flipped() == Judgement(i=1, j=0, i_wins=1, j_wins=2, ties=1, margin=-0.5)
    assert judgement.flipped().flipped() == judgement


@given(st.from_type(PreferenceRecord))
def test_flipping_turns_everything_that_has_a_side(given_record: PreferenceRecord) -> None:
    for judgement in given_record.judgements:
        flipped = judgement.flipped()
        Judgement.model_validate(flipped.model_dump())  # the annotations still agree with the counts
        assert flipped.flipped() == judgement
        assert flipped.soft_label == pytest.approx(1 - judgement.soft_label)
        assert (flipped.aspect, flipped.weight) == (judgement.aspect, judgement.weight)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"responses": ["a"]}, "at least 2 items"),
        ({"responses": ["", " "]}, "every response is empty"),
        ({"responses": ["a", True]}, "valid string"),
        ({"judgements": []}, "at least 1 item"),
        ({"judgements": [{**PAIR, "j": 2}]}, "the 2 responses have the indices 0 to 1"),
        ({"judgements": [{**PAIR, "i": -1}]}, "greater than or equal to 0"),
        ({"judgements": [{**PAIR, "j": 0}]}, "compares two responses"),
        ({"judgements": [{**PAIR, "i_wins": 0}]}, "no votes"),
        ({"judgements": [{**PAIR, "i_wins": -1}]}, "greater than or equal to 0"),
        ({"judgements": [{**PAIR, "i_wins": math.nan}]}, "finite"),
        ({"judgements": [{**PAIR, "i_wins": True}]}, "valid number"),
        ({"judgements": [{**PAIR, "strength": 1}]}, "Extra inputs"),
        ({"judgements": [{**PAIR, "weight": 0.0}]}, "greater than 0"),
        ({"judgements": [{**PAIR, "aspect": ""}]}, "aspect"),
        ({"judgements": [{**PAIR, "annotations": [{"annotator": "w", "choice": "k"}]}]}, "'i', 'j' or 'tie'"),
        (
            {"judgements": [{**PAIR, "annotations": [{"annotator": "w", "choice": "j"}]}]},
            "the annotations hold 0 votes for i, 1 for j and 0 ties, but",
        ),
        ({"prompt": []}, "empty list of messages"),
        ({"prompt": [{"role": "user"}]}, "content"),
        ({"prompt": None}, "prompt"),
        ({"qualities": ["good"]}, "1 qualities for 2 responses"),
        ({"group": ""}, "group"),
        ({"score": 1}, "Extra inputs"),
    ],
)
def test_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        record(**changes)


def test_one_empty_response_and_an_empty_prompt_are_data() -> None:
    assert record(prompt="", responses=["", "b"]).has_prompt is False


def test_a_text_prompt_is_one_user_message() -> None:
    as_messages = record(prompt=[{"role": "user", "content": "p"}])
    assert as_messages.prompt_key == record().prompt_key
    assert as_messages.split_key == record().split_key
    assert as_messages.prompt == [Message(role="user", content="p")]


def test_prompt_key_tells_roles_and_turns_apart() -> None:
    turns = [
        [{"role": "user", "content": "p"}],
        [{"role": "system", "content": "p"}],
        [{"role": "user", "content": "p"}, {"role": "user", "content": ""}],
    ]
    keys = {record(prompt=prompt).prompt_key for prompt in [*turns, "p ", '[["user","p"]]']}
    assert len(keys) == 5


def test_split_key() -> None:
    assert record(group="debate").split_key == "group:debate"
    assert record(prompt=" Why\nnot? ").split_key == record(prompt="why not?").split_key
    assert record(prompt=" Why\nnot? ").prompt_key != record(prompt="why not?").prompt_key
    bare = record(prompt="")
    assert bare.split_key == record(prompt="", responses=["b", "a"]).split_key
    assert bare.split_key != record(prompt="", responses=["a", "c"]).split_key


USER, REPLY, LATER = (
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
)
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("turns", "opening"),
    [
        ([USER], "why? "),
        ([USER, REPLY, LATER], "Why?"),
        ([SYSTEM, USER, REPLY, LATER], [SYSTEM, USER]),
        ("\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: And?\n\nAssistant:", "\n\nHuman: Why?\n\nAssistant:"),
    ],
)
def test_a_dialogue_is_one_at_all_its_turns(turns: Any, opening: Any) -> None:
    assert record(prompt=turns).split_key == record(prompt=opening).split_key


def test_dialogues_that_open_otherwise_are_several() -> None:
    prompts: list[Any] = [
        [USER, REPLY, LATER],
        [SYSTEM, USER, REPLY, LATER],
        [SYSTEM],
        [LATER, REPLY, USER],
        "\n\nHuman: Why?\n\nAssistant:",
        "Human nature.\n\nAssistant: what is that?",
        "Human:\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant:",
        "Human:\n\nAssistant: Hi.\n\nHuman: When?\n\nAssistant:",
        [REPLY, USER],
        [REPLY, LATER],
        [{"role": "user", "content": " "}, REPLY, USER],
        [{"role": "user", "content": " "}, REPLY, LATER],
        "Human nature.",
    ]
    assert len({record(prompt=prompt).split_key for prompt in prompts}) == len(prompts)


@given(st.from_type(PreferenceRecord))
@example(record(prompt="Human: Why?\n\nAssistant:"))
@example(record(prompt=[USER, REPLY, LATER]))
def test_equal_prompts_open_alike(given_record: PreferenceRecord) -> None:
    louder = [turn.model_copy(update={"content": f" {turn.content}\n"}) for turn in given_record.messages]
    other = given_record.model_copy(update={"prompt": louder})
    assert other.loose_prompt_key == given_record.loose_prompt_key
    assert other.opening_key == given_record.opening_key
