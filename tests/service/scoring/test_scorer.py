"""What a caller gets: the right scores in order, or a typed error that names the item."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.text_format import Message, Truncation
from service.scoring.admission import Limits
from service.scoring.errors import (
    EmptyTextError,
    ModelMismatchError,
    NonFiniteScoreError,
    TooManyTokensError,
    UnrenderablePromptError,
)
from service.scoring.items import Item
from tests.pocket import INFINITE_TEXT, NAN_TEXT
from tests.service.doubles import turns
from tests.service.scoring.line import ROOMY, line_over

texts = st.text("ab ", min_size=1, max_size=12)
prompts = st.one_of(texts, texts.map(lambda text: (Message(role="user", content=text),)))
requests = st.lists(st.lists(st.builds(Item, prompts, texts), min_size=1, max_size=12), min_size=1, max_size=8)


@settings(max_examples=25)
@given(requests=requests, batch_tokens=st.integers(64, 300))
@pytest.mark.parametrize("family", ["causal", "bidirectional"])
def test_scores_do_not_depend_on_company(request, family, requests, batch_tokens):
    """Whatever is asked at the same time, each item scores as it would alone, in the caller's order."""
    causal = family == "causal"
    bundle = request.getfixturevalue("pocket_bundle" if causal else "pocket_encoder_bundle")
    session = request.getfixturevalue("onnx_session" if causal else "onnx_encoder_session")

    async def all_at_once() -> None:
        async with line_over(bundle, replace(ROOMY, batch_tokens=batch_tokens), session) as line:
            results = await asyncio.gather(*map(line.submit, requests))
            for items, scores in zip(requests, results, strict=True):
                assert scores.raw == pytest.approx(line.right(items), abs=1e-5)
                assert [item.tokens for item in scores.items] == [
                    len(bundle.formatter.encode(item.prompt, [item.response])[0].ids) for item in items
                ]

    asyncio.run(all_at_once())


async def test_duplicates_get_equal_scores_and_are_computed_once(pocket_bundle, pocket_encoder_bundle):
    for bundle in (pocket_bundle, pocket_encoder_bundle):
        async with line_over(bundle) as line:
            items = [Item("p", "same"), Item("p", "other"), Item("p", "same")]
            line.session.then(lambda rewards: rewards + np.arange(len(rewards), dtype=np.float32)[:, None] * 1e-6)
            scores = await line.submit(items)
            assert scores.raw == pytest.approx(line.right(items), abs=1e-5)
            assert scores.raw[0] == scores.raw[2]  # whatever the rounding of the places in a batch
            (layout,) = line.session.layouts
            assert scores.computed_tokens == layout.tokens


async def test_each_distinct_prompt_is_tokenized_once(pocket_bundle, monkeypatch):
    seen = []
    encode = pocket_bundle.formatter.encode_parts
    monkeypatch.setattr(
        pocket_bundle.formatter, "encode_parts", lambda prompt, *rest: seen.append(prompt) or encode(prompt, *rest)
    )
    chat = [Message(role="user", content="x")]
    items = [Item("p", "1"), Item("q", "2"), Item("p", "3"), Item(chat, "4"), Item(list(chat), "5"), Item("p", "6")]
    async with line_over(pocket_bundle) as line:
        scores = await line.submit(items)
        assert seen == ["p", "q", tuple(chat)]
        assert scores.raw == pytest.approx(line.right(items), abs=1e-5)


@pytest.mark.parametrize(
    ("item", "part"),
    [
        (Item("", "r"), "prompt"),
        (Item("p", ""), "response"),
        (Item([Message(role="user", content=""), Message(role="assistant", content="")], "r"), "prompt"),
    ],
)
async def test_empty_texts_are_refused_unless_they_are_meant(pocket_bundle, item, part):
    items = [Item("p", "r"), item]
    async with line_over(pocket_bundle) as line:
        with pytest.raises(EmptyTextError, match=f"the {part} is empty") as refused:
            await line.submit(items)
        assert (refused.value.item, refused.value.part) == (1, part)
        assert line.session.layouts == []
        assert (await line.submit(items, allow_empty=True)).raw == pytest.approx(line.right(items), abs=1e-5)


async def test_an_empty_turn_beside_a_full_one_is_no_empty_prompt(pocket_bundle):
    chat = [Message(role="system", content=""), Message(role="user", content="x")]
    async with line_over(pocket_bundle) as line:
        assert len((await line.submit([Item(chat, "r")])).raw) == 1


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
async def test_a_score_that_is_no_number_fails_the_request(pocket_bundle, value, shown):
    async with line_over(pocket_bundle) as line:
        items = [Item("p", "1"), Item("p", "2"), Item("p", "3")]
        line.session.always(turns(line.right(items)[1], value))
        with pytest.raises(NonFiniteScoreError, match=shown) as failed:
            await line.submit(items)
        assert failed.value.item == 1
        assert line.metric("assay_scores_nonfinite_total") == 1
        assert line.metric("assay_samples_total", model="pocket", outcome="nonfinite") == 3


async def test_a_score_that_is_no_number_fails_its_item_if_asked(pocket_bundle):
    items = [Item("p", "1"), Item("p", "2"), Item("p", "3")]
    async with line_over(pocket_bundle) as line:
        line.session.always(turns(line.right(items)[1]))
        scores = await line.submit(items, per_item_failures=True)
        first, second, third = (item.score for item in scores.items)
        assert isinstance(second, NonFiniteScoreError)
        assert [first, third] == pytest.approx([line.right(items)[0], line.right(items)[2]], abs=1e-5)
        assert line.metric("assay_samples_total", model="pocket", outcome="nonfinite") == 1
        assert line.metric("assay_samples_total", model="pocket", outcome="ok") == 2
        assert line.metric("assay_score_count", revision=line.bundle.digest[:12]) == 2


@pytest.mark.parametrize("text", [NAN_TEXT, INFINITE_TEXT])
async def test_a_poisoned_item_does_not_spoil_its_batch_mates(pocket_bundle, onnx_session, text):
    async with line_over(pocket_bundle, session=onnx_session) as line:
        good = [Item("p", "1"), Item("p", "12")]
        poisoned, healthy = line.submit([Item("p", f"1{text}")]), line.submit(good)
        with pytest.raises(NonFiniteScoreError):
            await poisoned
        assert (await healthy).raw == pytest.approx(line.right(good), abs=1e-5)


async def test_an_over_long_item_is_named(pocket_bundle):
    items = [Item("p", "r"), Item("p", "x" * 100), Item("q", "r")]
    async with line_over(pocket_bundle) as line:
        with pytest.raises(TooManyTokensError, match=r"105 tokens.*limit of 64.*truncate") as refused:
            await line.submit(items)
        assert refused.value.item == 1
        assert line.session.layouts == []
        assert line.metric("assay_samples_total", model="pocket", outcome="invalid") == 3


@pytest.mark.parametrize("side", list(Truncation))
async def test_what_was_cut_is_reported(pocket_bundle, side):
    items = [Item("p", "r"), Item("p" * 40, "r" * 40)]
    async with line_over(pocket_bundle) as line:
        scores = await line.submit(items, truncate=side)
        assert [(item.tokens, item.removed) for item in scores.items] == [(6, 0), (64, 20)]
        assert scores.raw == pytest.approx(line.right(items, side), abs=1e-5)
        assert line.metric("assay_samples_total", model="pocket", outcome="truncated") == 1
        assert line.metric("assay_samples_total", model="pocket", outcome="ok") == 1


async def test_messages_that_the_template_refuses(pocket_bundle):
    items = [Item("p", "r"), Item([Message(role="wizard", content="x")], "r")]
    async with line_over(pocket_bundle) as line:
        with pytest.raises(UnrenderablePromptError, match="no such role: wizard") as refused:
            await line.submit(items)
        assert (refused.value.item, refused.value.part) == (1, "prompt")


async def test_a_pinned_model(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        assert len((await line.submit([Item("p", "r")], model_digest=pocket_bundle.digest)).raw) == 1
        with pytest.raises(ModelMismatchError, match=pocket_bundle.digest):
            await line.submit([Item("p", "r")], model_digest="0" * 64)


async def test_no_items_are_an_error_and_block_nobody(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        with pytest.raises(ValueError, match="item"):
            await line.submit([])
        assert len((await line.submit([Item("p", "r")])).raw) == 1


async def test_the_counters_add_up(pocket_bundle):
    async with line_over(pocket_bundle, Limits(1000, 10_000, batch_tokens=4096)) as line:
        await line.submit([Item("p", "1"), Item("p", "22"), Item("p", "22")])
        assert line.metric("assay_samples_total", model="pocket", outcome="ok") == 3
        assert line.metric("assay_request_samples_sum") == 3
        assert line.metric("assay_input_tokens_count") == 3
        assert line.metric("assay_input_tokens_sum") == 6 + 7 + 7
        assert line.metric("assay_score_count", revision=line.bundle.digest[:12]) == 3
        assert line.metric("assay_batch_samples_sum") == 2  # the twins are one
        assert line.metric("assay_engine_batches_total") == 1
        real = line.metric("assay_tokens_total", kind="real")
        assert real == line.metric("assay_batch_tokens_sum") == line.session.layouts[0].tokens
        assert real + line.metric("assay_tokens_total", kind="shared") == 20
        assert line.metric("assay_engine_last_progress_timestamp_seconds") > 0
