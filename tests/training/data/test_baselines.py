"""The length rule and the bag of words on data whose answer is known."""

import math
import random

import pytest

from training.data.baselines import bag_of_words, length_rule
from training.data.record import Judgement, PreferenceRecord


def pair(name: str, first: str, second: str, i_wins: float = 1, j_wins: float = 0) -> PreferenceRecord:
    judgement = Judgement(i=0, j=1, i_wins=i_wins, j_wins=j_wins, ties=1)
    return PreferenceRecord(
        id=name, prompt=f"prompt {name}", responses=[first, second], judgements=[judgement], source="s"
    )


def test_length_rule_counts_equal_lengths_half_and_leaves_ties_out() -> None:
    rows = [
        pair("1", "longer", "short"),
        pair("2", "longer", "short", 1, 2),
        pair("3", "equal", "EQUAL"),
        pair("4", "longer", "short", 1, 1),
    ]
    rule = length_rule(rows)
    assert (rule.value, rule.pairs) == (0.5, 3)
    assert length_rule(rows[2:3], length=lambda text: text.count("e")).value == 1.0


def test_length_rule_of_nothing_is_not_a_number() -> None:
    rule = length_rule([])
    assert math.isnan(rule.value)
    assert rule.pairs == 0


def _sentences(seed: int, good: str, bad: str) -> list[PreferenceRecord]:
    draw = random.Random(seed)
    filler = ["red", "green", "blue", "grey", "pink"]
    rows = []
    for number in range(60):
        texts = [f"{draw.choice(filler)} {word} {draw.choice(filler)}" for word in (good, bad)]
        wins = draw.random() < 0.5
        first, second = texts if wins else texts[::-1]
        rows.append(pair(str(number), first, second, int(wins), int(not wins)))
    return rows


def test_bag_of_words_learns_a_word_and_not_its_absence() -> None:
    telling = bag_of_words(_sentences(1, "kind", "rude"))
    assert (telling.value, telling.pairs) == (1.0, 60)
    assert 0.25 < bag_of_words(_sentences(1, "same", "same")).value < 0.75
    assert bag_of_words(_sentences(2, "kind", "rude")) == bag_of_words(_sentences(2, "kind", "rude"))


def test_bag_of_words_never_learns_from_the_prompt_it_is_tested_on() -> None:
    """Each prompt has its own winning word: grouped folds can know none of them."""
    rows = [
        pair(f"{prompt}", f"word{prompt} common", f"other{prompt} common").model_copy(update={"id": f"{prompt}-{copy}"})
        for prompt in range(10)
        for copy in range(4)
    ]
    assert bag_of_words(rows, min_texts=1).value == 0.5


def test_bag_of_words_needs_as_many_groups_as_folds() -> None:
    with pytest.raises(ValueError, match="3 groups of decided pairs for 5 folds"):
        bag_of_words([pair(str(number), "a", "b") for number in range(3)])
