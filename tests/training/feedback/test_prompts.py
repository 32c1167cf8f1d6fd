"""Prompts are read with file and line, kept apart, and put into an order without favourites."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.feedback.prompts import Message, Prompt, PromptError, PromptOrder, messages, read_prompts, split_prompts


def write(path: Path, *lines: object) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def numbered(count: int) -> list[Prompt]:
    return [(Message(role="user", content=str(number)),) for number in range(count)]


def test_texts_and_messages_are_read_once_each_and_other_columns_left_alone(tmp_path):
    turn = {"role": "user", "content": "a"}
    system = {"role": "system", "content": "b"}
    rows = ({"prompt": "a", "chosen": "x"}, "", {"prompt": [turn]}, {"prompt": [system, turn]}, {"prompt": "a"})
    read = read_prompts(write(tmp_path / "p.jsonl", *rows))
    assert [messages(prompt) for prompt in read] == [[turn], [system, turn]]


def test_the_projects_own_preferences_have_prompts():
    assert len(read_prompts("sample")) > 100


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ([], "an object with the key prompt"),
        ({"text": "a"}, "an object with the key prompt"),
        ({"prompt": 3}, "prompt must be a text, or a list"),
        ({"prompt": [{"role": "user"}]}, "prompt must be a text, or a list"),
        ({"prompt": ""}, "must not be empty"),
        ({"prompt": []}, "must not be empty"),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, "nor end in the assistant's"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    source = write(tmp_path / "p.jsonl", {"prompt": "fine"}, line)
    with pytest.raises(PromptError, match=rf"p\.jsonl:2: .*{complaint}"):
        read_prompts(source)


def test_no_prompts_and_no_file_are_told(tmp_path):
    with pytest.raises(PromptError, match="no prompts"):
        read_prompts(write(tmp_path / "p.jsonl"))
    with pytest.raises(FileNotFoundError, match="no such file of prompts"):
        read_prompts(str(tmp_path / "none.jsonl"))


@given(st.integers(2, 30), st.integers(1, 29), st.integers(0, 9))
def test_a_split_loses_nothing_and_shares_nothing(count, held_out, seed):
    prompts = numbered(count)
    if held_out >= count:
        with pytest.raises(PromptError, match="too few"):
            split_prompts(prompts, held_out, seed)
        return
    train, apart = split_prompts(prompts, held_out, seed)
    assert len(apart) == held_out
    assert sorted([*train, *apart], key=str) == sorted(prompts, key=str)


@given(st.integers(1, 7), st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 9))
def test_each_prompt_comes_once_before_any_comes_again(count, takes, seed):
    prompts = numbered(count)
    order, again = PromptOrder(prompts, seed), PromptOrder(prompts, seed)
    taken = [prompt for take in takes for prompt in order.take(take)]
    assert taken == again.take(sum(takes))
    counts = Counter(taken)
    assert max(counts.values()) - min(counts[prompt] for prompt in prompts) <= 1
