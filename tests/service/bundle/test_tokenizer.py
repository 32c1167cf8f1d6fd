"""Two readings of a text: special tokens count in markup and cannot be spelled in plain text."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from service.bundle.tokenizer import TextTokenizer
from tests.pocket import SPECIAL_IDS, SPECIAL_TOKENS, VOCABULARY_SIZE, pocket_tokenizer

POCKET = TextTokenizer(pocket_tokenizer())
TEXTS = st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=4))).map("".join)


@given(TEXTS)
def test_plain_text_is_its_bytes_whatever_it_spells(text: str) -> None:
    assert POCKET.plain([text]) == [list(text.encode())]


@given(st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text("ab <|[é", max_size=3))))
def test_markup_knows_special_tokens(parts: list[str]) -> None:
    expected = [token for part in parts for token in ([SPECIAL_IDS[part]] if part in SPECIAL_IDS else part.encode())]
    assert POCKET.markup("".join(parts)) == expected


def test_no_text_at_all() -> None:
    assert POCKET.plain([]) == []
    assert POCKET.plain(["", ""]) == [[], []]
    assert POCKET.markup("") == []


def test_what_it_knows() -> None:
    assert POCKET.vocabulary_size == VOCABULARY_SIZE


def test_truncation_and_padding_of_the_definition_are_ignored() -> None:
    tokenizer = Tokenizer.from_str(pocket_tokenizer())
    tokenizer.enable_truncation(max_length=2)
    tokenizer.enable_padding(length=9)
    assert TextTokenizer(tokenizer.to_str()).plain(["abc", ""]) == [[97, 98, 99], []]
    assert TextTokenizer(tokenizer.to_str()).markup("abc") == [97, 98, 99]


# -- tokenizers whose models hold the special tokens as ordinary pieces --------


def unigram() -> Tokenizer:
    """As XLM-R and DeBERTa-v3: `</s>` has the score 0, so that the most likely reading always takes it."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((piece, -3.0) for piece in "▁</s>ax")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "x": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"<unk>": 0, "</s>": 1, "a": 2, "x": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def merged_bpe() -> Tokenizer:
    """As converted SentencePiece models may be: there are merges that lead to the special token."""
    vocabulary = {
        "<unk>": 0,
        "</s>": 1,
        "a": 2,
        "x": 3,
        "<": 4,
        "/": 5,
        "s": 6,
        ">": 7,
        "</": 8,
        "s>": 9,
        "▁": 10,
    }
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))


def whole_word_bpe() -> Tokenizer:
    """As Llama 3: a word that is in the vocabulary is one token, merges or not."""
    vocabulary = {"<unk>": 0, "</s>": 1, "a": 2, "x": 3, "<": 4, "/": 5, "s": 6, ">": 7}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.mark.parametrize("make", [unigram, word_level, word_piece, merged_bpe, whole_word_bpe])
@pytest.mark.parametrize("text", ["</s>", "a </s>", "a </s> x", "a</s>", "</s></s>"])
def test_a_response_cannot_spell_a_special_token(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    ours = TextTokenizer(tokenizer.to_str())
    assert 1 in ours.markup(text)
    assert 1 not in ours.plain([text])[0]
    assert ours.plain([text])[0] != []


@pytest.mark.parametrize("make", [unigram, word_level, word_piece, merged_bpe, whole_word_bpe])
@given(text=st.text("ax y", max_size=8))
def test_text_that_spells_none_reads_the_same_both_ways(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    ours = TextTokenizer(tokenizer.to_str())
    assert ours.plain([text]) == [ours.markup(text)] == [tokenizer.encode(text, add_special_tokens=False).ids]


def test_unknown_words_keep_the_unknown_id() -> None:
    tokenizer = word_level()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    assert TextTokenizer(tokenizer.to_str()).plain(["a zebra x"]) == [[2, 0, 3]]


def test_added_tokens_that_are_not_special_count_in_responses_too() -> None:
    tokenizer = Tokenizer.from_str(pocket_tokenizer())
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    assert TextTokenizer(tokenizer.to_str()).plain(["<think>a"]) == [[VOCABULARY_SIZE, 97]]


# -- errors, files, threads ----------------------------------------------------


@pytest.mark.parametrize("definition", ["", "{}", "null", "[]", "not json", '{"model": 3}', pocket_tokenizer()[:-9]])
def test_a_broken_definition_is_refused(definition: str) -> None:
    with pytest.raises(ValueError, match=r"not a readable tokenizer\.json: ."):
        TextTokenizer(definition)


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    definition = json.dumps(json.loads(pocket_tokenizer()), indent=1).replace("\n", "\r\n")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(definition.encode())
    assert TextTokenizer.from_file(path).definition == definition


def test_many_threads_get_the_same_tokens() -> None:
    texts = [f"<|end|> {n} [SEP] é" * (1 + n % 5) for n in range(40)]
    tokenizer = TextTokenizer(pocket_tokenizer())
    start = Barrier(8)

    def work(_: int) -> list[tuple[list[int], list[list[int]]]]:
        start.wait()
        return [(tokenizer.markup(text), tokenizer.plain([text, text[1:]])) for text in texts]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results[0] == [(POCKET.markup(text), [list(text.encode()), list(text[1:].encode())]) for text in texts]
    assert all(result == results[0] for result in results)
