"""Texts that hold a prompt and its response: framed once, never twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family
from service.bundle.text_format import EncodedItem, FormatError, Formatter, Side, TooLongError
from tests.pocket import SPECIAL_IDS, pocket_formatter

FORMATTER = pocket_formatter(Family.CAUSAL)
END = SPECIAL_IDS["<|end|>"]
WORDS = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=12)


def ids(item):
    assert isinstance(item, EncodedItem)
    return item.ids.tolist()


@given(prompt=WORDS, response=WORDS, end=st.sampled_from(["", "<|end|>", "<|end|>\n", "<|end|> \n"]))
def test_it_is_the_item_that_was_rendered(prompt, response, end):
    text = FORMATTER.render(prompt) + response + end
    assert ids(FORMATTER.encode_whole(text)) == ids(FORMATTER.encode(prompt, [response])[0])


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30))
def test_framing_twice_is_framing_once(tokens):
    once = ids(FORMATTER.frame(tokens))
    assert ids(FORMATTER.frame(once)) == once


def test_without_a_frame_it_stays_as_it_is():
    assert ids(FORMATTER.encode_whole("ab\n", framed=False)) == [97, 98, 10]
    assert ids(FORMATTER.frame([97, END, 98], framed=False)) == [97, END, 98]


@pytest.mark.parametrize(("bos", "added"), [("<|user|>", True), ("<|system|>", False), (None, False)])
def test_a_bos_that_the_template_spells_and_the_caller_has_stripped_is_put_back(bos, added):
    """verl strips the BOS from what the template rendered, because vLLM adds it."""
    special = {} if bos is None else {"bos_token": bos}
    text_format = FORMATTER.text_format.model_copy(update={"special_tokens": special})
    formatter = Formatter(text_format, FORMATTER.template, FORMATTER.tokenizer, FORMATTER.max_tokens)
    whole = ids(formatter.encode("hi", ["yes"])[0])
    assert whole[0] == SPECIAL_IDS["<|user|>"]
    stripped = formatter.render("hi").removeprefix("<|user|>") + "yes"
    assert ids(formatter.encode_whole(stripped)) == (whole if added else whole[1:])
    assert ids(formatter.encode_whole("<|user|>" + stripped)) == whole


def test_blanks_that_no_end_precedes_belong_to_the_text():
    assert ids(FORMATTER.encode_whole("ab\n")) == [97, 98, 10, END]


@given(length=st.integers(1, 120), side=st.sampled_from(Side), framed=st.booleans())
def test_a_cut_leaves_the_side_that_was_asked_for(length, side, framed):
    tokens = [place % 26 + 97 for place in range(length)]
    item = FORMATTER.frame(tokens, framed, side)
    found = ids(item)
    body = found[:-1] if framed else found
    assert len(found) <= FORMATTER.max_tokens
    assert body == (tokens[len(tokens) - len(body) :] if side is Side.LEFT else tokens[: len(body)])
    assert item.removed == length - len(body)
    assert item.removed == 0 or len(found) == FORMATTER.max_tokens


def test_too_long_without_a_cut():
    error = FORMATTER.encode_whole("x" * FORMATTER.max_tokens)
    assert isinstance(error, TooLongError)
    assert error.tokens == FORMATTER.max_tokens + 1


class TestBetweenPromptAndResponse:
    formatter = pocket_formatter(Family.BIDIRECTIONAL)

    def test_it_must_be_in_the_text(self):
        with pytest.raises(FormatError, match="prompt and response apart"):
            self.formatter.encode_whole("ab")

    @given(prompt=WORDS, response=WORDS, framed=st.booleans())
    def test_where_it_is_the_item_is_that_of_its_parts(self, prompt, response, framed):
        text = f"{prompt}[SEP]{response}"
        text = f"[CLS]{text}[SEP]" if framed else text
        assert ids(self.formatter.encode_whole(text)) == ids(self.formatter.encode(prompt, [response])[0])
