"""Splitting: nothing lost, nothing doubled, nothing moved."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_client.batching import items_allowed, split
from assay_client.errors import TooLargeError
from assay_client.types import Limits

SIZES = st.lists(st.integers(0, 50), max_size=200)


@given(SIZES, st.integers(1, 20), st.integers(51, 300))
def test_spans_cover_the_list_in_order_and_keep_the_limits(sizes: list[int], items: int, room: int) -> None:
    spans = split(sizes, max_items=items, max_bytes=room, name="pairs")
    assert [i for span in spans for i in span] == list(range(len(sizes)))
    assert all(1 <= len(span) <= items for span in spans)
    assert all(sum(sizes[i] + 1 for i in span) <= room for span in spans)


@given(SIZES, st.integers(1, 20), st.integers(51, 300))
def test_spans_take_as_much_as_they_can(sizes: list[int], items: int, room: int) -> None:
    spans = split(sizes, max_items=items, max_bytes=room, name="pairs")
    for span, following in pairwise(spans):
        full = len(span) == items
        assert full or sum(sizes[i] + 1 for i in span) + sizes[following.start] + 1 > room


def test_an_item_larger_than_a_request_is_named() -> None:
    with pytest.raises(TooLargeError, match=r"pairs\.1 takes 12 bytes") as caught:
        split([3, 11, 2], max_items=5, max_bytes=11, name="pairs")
    assert caught.value.field == "pairs.1"
    assert split([3, 10, 2], max_items=5, max_bytes=11, name="pairs") == [
        range(1),
        range(1, 2),
        range(2, 3),
    ]


@pytest.mark.parametrize(
    ("limits", "texts", "whole", "allowed"),
    [
        (Limits(1, 64), 1, False, 64),
        (Limits(1, 64, queue_items=5), 2, False, 2),
        (Limits(1, 64, tokens_per_item=100, queue_items=50, queue_tokens=999), 1, False, 9),
        (Limits(1, 64, tokens_per_item=100, queue_items=50, queue_tokens=999), 2, False, 4),
        (Limits(1, 64, tokens_per_item=100, queue_items=50, queue_tokens=999), 1, True, 50),
        (Limits(1, 64, queue_tokens=999), 1, False, 64),
        (Limits(1, 64, tokens_per_item=100, queue_tokens=99), 2, False, 1),
    ],
)
def test_a_request_holds_no_more_than_the_queue(limits: Limits, texts: int, whole: bool, allowed: int) -> None:
    assert items_allowed(limits, texts=texts, whole=whole) == allowed
