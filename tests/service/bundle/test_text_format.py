"""From prompt and response to tokens: what goes where, what is cut, what is refused."""

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family
from service.bundle.text_format import (
    PLAIN_TEMPLATE,
    EncodedItem,
    Formatter,
    TooLongError,
    Truncation,
)
from service.bundle.tokenizer import TextTokenizer
from tests.pocket import CHAT_TEMPLATE, SPECIAL_IDS, SPECIAL_TOKENS, pocket_formatter, pocket_tokenizer

CLS, SEP, USER, ASSISTANT, END = (
    SPECIAL_IDS[token] for token in ("[CLS]", "[SEP]", "<|user|>", "<|assistant|>", "<|end|>")
)
LEFT, RIGHT = Truncation.PROMPT_LEFT, Truncation.RESPONSE_RIGHT
LIMIT = 16
CHAT = pocket_formatter(Family.CAUSAL, LIMIT)
PLAIN = pocket_formatter(Family.BIDIRECTIONAL, LIMIT)
TOKENIZER = CHAT.tokenizer
FORGING = st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=3)), max_size=4).map("".join)


def encode(
    prompt: str, response: str, *truncate: Truncation, formatter: Formatter = PLAIN
) -> EncodedItem | TooLongError:
    (item,) = formatter.encode(prompt, [response], truncate)
    return item


def ids(item: EncodedItem | TooLongError) -> list[int]:
    assert isinstance(item, EncodedItem), item
    assert item.ids.dtype == np.int64
    return list(map(int, item.ids))


# -- tokens --------------------------------------------------------------------


def test_chat_tokens() -> None:
    assert ids(encode("hi", "yes", formatter=CHAT)) == [USER, *b"hi", END, ASSISTANT, *b"yes", END]


def test_plain_tokens() -> None:
    assert ids(encode("hi", "yes")) == [CLS, *b"hi", SEP, *b"yes", SEP]


def test_an_empty_response_is_legal() -> None:
    assert ids(encode("hi", "")) == [CLS, *b"hi", SEP, SEP]
    assert PLAIN.encode("hi", []) == []


@given(FORGING, st.sampled_from([(), (LEFT,), (RIGHT,), (RIGHT, LEFT)]), st.integers(8, 40))
def test_a_response_cannot_forge_special_tokens(response: str, truncate: tuple[Truncation, ...], limit: int) -> None:
    (item,) = pocket_formatter(Family.CAUSAL, limit).encode("hi", [response], truncate)
    if isinstance(item, EncodedItem):
        *before, end = item.ids.tolist()
        assert end == END
        after_prompt = before[before.index(ASSISTANT) + 1 :] if ASSISTANT in before else before
        assert bytes(after_prompt) == response.encode()[: len(after_prompt)]


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=4), st.permutations([LEFT, RIGHT]))
def test_responses_do_not_change_each_other(prompt: str, responses: list[str], truncate: list[Truncation]) -> None:
    together = PLAIN.encode(prompt, responses, truncate)
    alone = [encode(prompt, response, *truncate) for response in responses]
    assert [ids(item) for item in together] == [ids(item) for item in alone]


# -- limits --------------------------------------------------------------------


@given(st.text("ab", max_size=24), st.text("cd", max_size=24), st.lists(st.sampled_from(Truncation), max_size=3))
def test_an_item_fits_as_it_is_or_is_cut_to_the_limit_or_is_refused(
    prompt: str, response: str, truncate: list[Truncation]
) -> None:
    whole = 3 + len(prompt) + len(response)
    item = encode(prompt, response, *truncate)
    room = LIMIT - 3
    possible = (
        whole <= LIMIT
        or (LEFT in truncate and RIGHT in truncate)
        or (LEFT in truncate and len(response) <= room)
        or (RIGHT in truncate and len(prompt) + min(1, len(response)) <= room)
    )
    assert isinstance(item, EncodedItem) == possible
    if isinstance(item, EncodedItem):
        cls, *inner, sep = item.ids.tolist()
        kept_prompt, kept_response = (bytes(part).decode() for part in split(inner))
        assert (cls, sep) == (CLS, SEP)
        assert item.removed == whole - len(item.ids) == max(0, whole - LIMIT)
        assert prompt.endswith(kept_prompt)
        assert response.startswith(kept_response)
        assert kept_response or not response
        assert LEFT in truncate or kept_prompt == prompt
        assert RIGHT in truncate or kept_response == response


def split(inner: list[int]) -> tuple[list[int], list[int]]:
    middle = inner.index(SEP)
    return inner[:middle], inner[middle + 1 :]


@pytest.mark.parametrize("truncate", [(), (LEFT,), (RIGHT,), (LEFT, RIGHT)])
def test_an_item_that_fits_exactly_is_not_touched(truncate: tuple[Truncation, ...]) -> None:
    item = encode("p" * 6, "r" * 7, *truncate)
    assert ids(item) == [CLS, *b"pppppp", SEP, *b"rrrrrrr", SEP]
    assert isinstance(item, EncodedItem)
    assert item.removed == 0


def test_one_token_over_the_limit() -> None:
    assert ids(encode("abcdef", "rstuvwxy", LEFT)) == [CLS, *b"bcdef", SEP, *b"rstuvwxy", SEP]
    assert ids(encode("abcdef", "rstuvwxy", RIGHT)) == [CLS, *b"abcdef", SEP, *b"rstuvwx", SEP]
    error = encode("abcdef", "rstuvwxy")
    assert isinstance(error, TooLongError)
    assert (error.tokens, error.limit) == (17, 16)
    assert str(error) == (
        "17 tokens, more than the model's limit of 16; "
        'shorten it, or send "truncate": "prompt_left" or "response_right"'
    )


def test_sides_are_cut_in_the_order_given() -> None:
    prompt, response = "abcdefgh", "rstuvwxyz"  # four too many
    assert ids(encode(prompt, response, LEFT, RIGHT)) == [CLS, *b"efgh", SEP, *b"rstuvwxyz", SEP]
    assert ids(encode(prompt, response, RIGHT, LEFT)) == [CLS, *b"abcdefgh", SEP, *b"rstuv", SEP]


def test_the_second_side_gives_what_the_first_could_not() -> None:
    assert ids(encode("ab", "r" * 20, LEFT, RIGHT)) == [CLS, SEP, *b"r" * 13, SEP]
    assert ids(encode("a" * 20, "rs", RIGHT, LEFT)) == [CLS, *b"a" * 12, SEP, *b"r", SEP]


def test_a_cut_that_is_not_enough_says_so() -> None:
    left, right = encode("ab", "r" * 14, LEFT), encode("a" * 13, "rst", RIGHT)
    assert str(left) == "17 tokens, more than the model's limit of 16; cutting prompt_left is not enough"
    assert str(right) == "17 tokens, more than the model's limit of 16; cutting response_right is not enough"


def test_one_item_too_long_leaves_its_neighbours_alone() -> None:
    short, long, last = PLAIN.encode("hi", ["yes", "r" * 99, "no"])
    assert ids(short) == [CLS, *b"hi", SEP, *b"yes", SEP]
    assert isinstance(long, TooLongError)
    assert ids(last) == [CLS, *b"hi", SEP, *b"no", SEP]


# -- identity ------------------------------------------------------------------


def test_every_part_of_the_format_changes_its_hash() -> None:
    text_format = PLAIN.text_format
    base = (text_format, PLAIN_TEMPLATE, TOKENIZER, LIMIT)
    other_tokenizer = TextTokenizer(TOKENIZER.definition.replace('"[CLS]"', '"[BOS]"'))
    variants = [
        base,
        (text_format.model_copy(update={"begin": ()}), *base[1:]),
        (text_format.model_copy(update={"begin": (), "middle": text_format.begin}), *base[1:]),
        (text_format.model_copy(update={"middle": ()}), *base[1:]),
        (text_format.model_copy(update={"end": (END,)}), *base[1:]),
        (text_format.model_copy(update={"special_tokens": {"bos_token": "x"}}), *base[1:]),
        (text_format, CHAT_TEMPLATE, TOKENIZER, LIMIT),
        (text_format, PLAIN_TEMPLATE, other_tokenizer, LIMIT),
        (text_format, PLAIN_TEMPLATE, TOKENIZER, LIMIT + 1),
    ]
    hashes = [Formatter(*parts).sha256 for parts in variants]
    assert all(a != b for a, b in permutations(hashes, 2))
    assert all(len(digest) == 64 for digest in hashes)


def test_the_hash_is_that_of_the_parts_alone() -> None:
    again = Formatter(PLAIN.text_format, PLAIN_TEMPLATE, TextTokenizer(pocket_tokenizer()), LIMIT)
    encode("hi", "yes", formatter=again)
    assert again.sha256 == PLAIN.sha256


# -- threads -------------------------------------------------------------------


def test_many_threads_format_alike() -> None:
    work = [(f"prompt {n} <|user|>", [f"response {m} <|end|>" for m in range(n % 4)]) for n in range(30)]
    expected = [[ids(item) for item in CHAT.encode(*arguments, [RIGHT, LEFT])] for arguments in work]
    shared = pocket_formatter(Family.CAUSAL, LIMIT)
    start = Barrier(8)

    def run(_: int) -> list[list[list[int]]]:
        start.wait()
        return [[ids(item) for item in shared.encode(*arguments, [RIGHT, LEFT])] for arguments in work]

    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(run, range(8)))
