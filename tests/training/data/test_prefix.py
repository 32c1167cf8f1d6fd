"""The implicit prompt of two texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.errors import DataError
from training.data.readers.prefix import common_text

fragments = st.lists(st.sampled_from(["a", "b", "ab", " ", "\n", ".", ":", "é"]), max_size=8).map("".join)


@given(fragments, fragments, fragments)
def test_prompt_and_response_are_the_text(shared: str, one: str, other: str) -> None:
    chosen, rejected = shared + one, shared + other
    try:
        prompt, first, second = common_text(chosen, rejected)
    except DataError:
        # Only where one side says nothing that the other does not.
        assert chosen.startswith(rejected.rstrip()) or rejected.startswith(chosen.rstrip())
        return
    assert (prompt + first, prompt + second) == (chosen, rejected)
    for response in (first, second):  # No word is cut in two.
        assert not prompt or prompt[-1] in ".:\n" or response[0].isspace()
    if prompt:
        assert first.strip()
        assert second.strip()


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("Yes", "Yes it is"), ("One. Two.", "One."), ("One.", "One.\n"), ("The", "There"), ("", "a. b"), ("a", "a")],
)
def test_where_one_text_begins_the_other_and_no_sentence_ends_before(chosen: str, rejected: str) -> None:
    for texts in ((chosen, rejected), (rejected, chosen)):
        with pytest.raises(DataError, match="where (it|the prompt) ends is unknown"):
            common_text(*texts)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q?\nA: yes it is", "Q?\nA: yes it was", "Q?\nA:"),
        ("Q?\n\nyes", "Q?\n\nyet", "Q?\n\n"),
        ("Q? Yes", "Q? Yes, so", "Q?"),
        ("Pi is 3.14", "Pi is 3.15", "Pi is"),
        ("These", "There", ""),
        ("Q? Yes.", "Q? Yes. It is.", "Q?"),
        ("Q?\nYes", "Q?\nYes it is", "Q?\n"),
        ("Q: 2+2?\nA: 4.", "Q: 2+2?\nA: 4. Four.", "Q: 2+2?\nA:"),
    ],
)
def test_boundary(chosen: str, rejected: str, prompt: str) -> None:
    assert common_text(chosen, rejected)[0] == prompt
