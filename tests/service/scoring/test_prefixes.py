"""The index always knows the forest that the layout would write, whatever came and went."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.layout import Family, common_prefix, plan_layout
from service.scoring.prefixes import PrefixIndex, Sequences, forest_tokens, token_key
from tests.service.scoring.sequences import FAMILIES, forest, requests, sequences


@given(st.lists(st.tuples(st.booleans(), sequences), max_size=40), st.sampled_from(FAMILIES))
def test_its_counts_are_those_of_the_forest_after_any_history(history, family):
    index, inside = PrefixIndex(family), {}
    for adding, sequence in history:
        key = token_key(sequence)
        before = index.tokens
        if adding and key not in inside:
            place = index.add(key, sequence)
            inside[key] = sequence
            assert index.tokens == before + place.tokens
        elif not adding and inside:
            gone = sorted(inside)[len(sequence) % len(inside)]
            index.remove(gone)
            del inside[gone]
        trees = forest(list(inside.values()), family)
        assert len(index) == len(inside)
        assert index.tokens == sum(added for _, added in trees)
        assert index.length_tokens == sum(added * length for length, added in trees)


@given(st.lists(requests, max_size=4), st.randoms(), st.sampled_from(FAMILIES))
def test_items_of_different_marks_share_nothing(all_requests, order, family):
    index, marked = PrefixIndex(family), []
    for number, items in enumerate(all_requests):
        marked += Sequences.of(items, family).of_one_request(number).distinct.items()
    order.shuffle(marked)
    for key, sequence in marked:
        index.add(key, sequence)
    assert index.tokens == sum(Sequences.of(items, family).tokens for items in all_requests)
    for key, _ in marked:
        assert all(sibling[:8] == key[:8] for sibling in index.siblings(key))
    order.shuffle(marked)
    for key, _ in marked:
        index.remove(key)
    assert index.tokens == index.length_tokens == 0


@given(requests, st.sampled_from(FAMILIES), st.integers(1, 5))
def test_its_size_is_that_of_the_planned_layout(items, family, queries):
    index = PrefixIndex(family)
    for key, sequence in Sequences.of(items, family).distinct.items():
        index.add(key, sequence)
    assert index.tokens == plan_layout(items, family, block_queries=queries).tokens


@given(st.lists(sequences, min_size=1, max_size=20))
def test_siblings_share_at_least_half_of_themselves_nearest_first_and_none_is_left_out_between(items):
    index = PrefixIndex(Family.CAUSAL)
    unique = Sequences.of(items, Family.CAUSAL).distinct
    for key, sequence in unique.items():
        index.add(key, sequence)
    keys = list(unique)
    for key in keys:
        siblings = list(index.siblings(key))
        shared = [common_prefix(unique[key], unique[sibling]) for sibling in siblings]
        assert shared == sorted(shared, reverse=True)
        assert all(2 * count >= len(unique[sibling]) for count, sibling in zip(shared, siblings, strict=True))
        places = sorted(map(keys.index, [key, *siblings]))
        assert places == list(range(places[0], places[-1] + 1))  # a stretch of the order, around the item
        for end in {places[0] - 1, places[-1] + 1} & set(range(len(keys))):
            assert 2 * common_prefix(unique[key], unique[keys[end]]) < len(unique[keys[end]])


def test_a_bidirectional_model_has_no_siblings():
    index = PrefixIndex(Family.BIDIRECTIONAL)
    for last in range(3):
        sequence = np.array([1, 2, 3, last])
        index.add(token_key(sequence), sequence)
    assert list(index.siblings(token_key(np.array([1, 2, 3, 1])))) == []


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4), min_size=2, max_size=12))
def test_keys_sort_as_the_token_ids_do(lists):
    arrays = [np.array(ids, dtype=np.int64) for ids in lists]
    assert sorted(lists) == [ids for _, ids in sorted(zip(map(token_key, arrays), lists, strict=True))]


@given(requests, st.sampled_from(FAMILIES))
def test_a_request_keeps_every_item_of_the_caller_in_order(items, family):
    found = Sequences.of(items, family)
    assert [found.distinct[key].tolist() for key in found.keys] == [item.tolist() for item in items]
    assert found.tokens == sum(added for _, added in forest(items, family))
    assert found.input_tokens == sum(map(len, items))
    assert forest_tokens(found.distinct.values(), family) == found.tokens


def test_no_sequences_have_no_forest():
    assert Sequences.of([], Family.CAUSAL) == Sequences([], {}, 0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_removing_what_is_not_there_is_a_mistake(family):
    index = PrefixIndex(family)
    index.add(token_key(np.arange(3)), np.arange(3))
    with pytest.raises((AssertionError, IndexError)):
        index.remove(token_key(np.arange(4)))
