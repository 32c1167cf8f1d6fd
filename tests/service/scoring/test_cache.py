"""The cache gives back what was put in, forgets the least recently used, and never holds what is no number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scoring.cache import ScoreCache
from service.scoring.scorer import Item
from tests.service.doubles import turns
from tests.service.scoring.line import line_over


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.tuples(st.floats(), st.floats()))), st.integers(0, 4))
def test_it_is_a_dictionary_of_the_last_used(history, items):
    cache, last_used = ScoreCache(items, "digest"), {}
    for putting, number, scores in history:
        key = bytes([number])
        if putting:
            cache.put(key, scores)
            if items and all(map(math.isfinite, scores)):
                last_used.pop(key, None)
                last_used[key] = scores
                if len(last_used) > items:
                    del last_used[next(iter(last_used))]
        else:
            assert cache.get(key) == last_used.get(key)
            if key in last_used:
                last_used[key] = last_used.pop(key)
        assert len(cache) == len(last_used) <= items


async def test_items_that_were_scored_before_are_not_computed_again(pocket_bundle):
    async with line_over(pocket_bundle, cache=ScoreCache(100, pocket_bundle.digest)) as line:
        first = [Item("p", "1"), Item("p", "2")]
        assert (await line.submit(first)).raw == pytest.approx(line.right(first), abs=1e-5)
        mixed = [Item("p", "3"), Item("p", "2"), Item("p", "3"), Item("p", "1")]
        scores = await line.submit(mixed)
        assert scores.raw == pytest.approx(line.right(mixed), abs=1e-5)
        assert scores.computed_tokens == 6
        assert len(line.session.layouts[1].read_index) == 1
        again = await line.submit(mixed)  # all of it is there
        assert (again.raw, again.computed_tokens, again.queue_seconds) == (scores.raw, 0, 0.0)
        assert len(line.session.layouts) == 2
        assert line.metric("assay_score_cache_hits_total") == 2 + 3
        total = line.metric("assay_tokens_total", kind="real") + line.metric("assay_tokens_total", kind="shared")
        assert total == line.metric("assay_input_tokens_sum")


async def test_a_score_that_is_no_number_is_asked_for_again(pocket_bundle):
    async with line_over(pocket_bundle, cache=ScoreCache(100, pocket_bundle.digest)) as line:
        items = [Item("p", "1"), Item("p", "2")]
        line.session.always(turns(line.right(items)[0]))
        failed = await line.submit(items, per_item_failures=True)
        assert sum(isinstance(item.score, float) for item in failed.items) == 1
        line.session.always(lambda rewards: rewards)
        assert (await line.submit(items)).raw == pytest.approx(line.right(items), abs=1e-5)
        assert [len(layout.read_index) for layout in line.session.layouts] == [2, 1, 1]


async def test_without_a_cache_everything_is_computed(pocket_bundle):
    async with line_over(pocket_bundle) as line:
        for _ in range(2):
            await line.submit([Item("p", "1")])
        assert len(line.session.layouts) == 2
