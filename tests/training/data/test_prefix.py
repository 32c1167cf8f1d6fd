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
    if chosen == rejected:
        with pytest.raises(DataError):
            common_text(chosen, rejected)
        return
    prompt, first, second = common_text(chosen, rejected)
    assert (prompt + first, prompt + second) == (chosen, rejected)
    for response in (first, second):  # No word is cut in two.
        assert not prompt or not response or prompt[-1] in ".:\n" or response[0].isspace()


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q?\nA: yes it is", "Q?\nA: yes it was", "Q?\nA:"),
        ("Q?\n\nyes", "Q?\n\nyet", "Q?\n\n"),
        ("Q? Yes", "Q? Yes, so", "Q?"),
        ("Pi is 3.14", "Pi is 3.15", "Pi is"),
        ("The", "There", ""),
        ("Yes", "Yes it is", "Yes"),
        ("One. Two.", "One.", "One."),
    ],
)
def test_boundary(chosen: str, rejected: str, prompt: str) -> None:
    assert common_text(chosen, rejected)[0] == prompt
