"""The project's own data keep what their card promises."""

from collections import Counter

import numpy as np
import pytest

from training.config import SAMPLE_DATA
from training.data import check, read_records
from training.data.baselines import bag_of_words, length_rule


@pytest.fixture(scope="module")
def records():
    return read_records(SAMPLE_DATA).records


def test_prompts_and_categories_are_as_many_as_the_card_says(records):
    categories = Counter(record.category for record in records)
    assert len(records) == 420
    assert len(categories) == 12
    assert set(categories.values()) == {35}


def test_every_prompt_has_three_to_five_responses_of_named_qualities(records):
    for record in records:
        assert 3 <= len(record.responses) <= 5
        assert record.qualities is not None
        assert len(record.judgements) == len(record.responses) * (len(record.responses) - 1) / 2


def test_no_prompt_and_no_response_occurs_twice(records):
    report = check(records)
    assert report.exact_duplicates.count == 0
    assert report.contradictions.count == 0
    assert report.identical_responses.count == 0
    assert report.near_duplicate_prompts.count == 0


def test_the_longer_response_wins_about_half_of_the_time(records):
    assert 0.45 <= length_rule(records).value <= 0.60


def test_a_bag_of_words_does_not_tell_better_from_worse(records):
    assert bag_of_words(records).value < 0.65


def test_the_best_response_is_not_always_in_the_same_place(records):
    best = Counter(int(np.argmax(_wins(record))) for record in records)
    assert max(best.values()) < 0.5 * len(records)


def _wins(record):
    """Votes for each response."""
    wins = [0.0] * len(record.responses)
    for judgement in record.judgements:
        wins[judgement.i] += judgement.i_wins
        wins[judgement.j] += judgement.j_wins
    return wins
