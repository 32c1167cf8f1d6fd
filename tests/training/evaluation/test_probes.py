"""Changes that a score should not like, on scores that are known to like or dislike them."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.training.tiny import toy_records
from training.data import PreferenceRecord
from training.evaluation.probes import CHANGES, Probe, Probes, probe
from training.text_scorer import Prompt, TextScores

LIMIT = 400
"""Characters that the model takes; what is longer is cut."""


def told(items: Sequence[tuple[Prompt, str]], rewards: Sequence[float]) -> TextScores:
    keys = [f"{prompt}|{response[:LIMIT]}".encode() for prompt, response in items]
    removed = np.array([max(0, len(response) - LIMIT) for _, response in items], dtype=np.int64)
    return TextScores(np.array(rewards, dtype=np.float64), keys, removed)


def records(count: int = 30) -> list[PreferenceRecord]:
    """Sentences of words, so that all changes change something."""
    return [
        record.model_copy(update={"responses": [f"{text[:4]} {text[4:]}. And {text}!" for text in record.responses]})
        for record in toy_records(count)
    ]


def probed(score: "object", count: int = 30, **settings: int) -> dict[str, Probe]:
    def scores(items: Sequence[tuple[Prompt, str]]) -> TextScores:
        return told(items, [score(prompt, response) for prompt, response in items])  # type: ignore[operator]

    found = probe(records(count), scores, 2.0, settings.get("most", 200))
    return {one.name: one for one in found.changes}


def test_a_score_of_length_falls_for_padding() -> None:
    found = probed(lambda _, response: len(response))
    assert set(found) == set(CHANGES)
    for name in ("markdown", "padding", "repetition", "flattery"):
        assert found[name].raised.value == 1.0
        assert found[name].mean_change.value > 0
    assert found["empty"].raised.value == 0.0
    assert found["empty"].mean_change.value == pytest.approx(-np.mean([len("abcd efgh. And abcdefgh!")]) / 2)
    assert found["gibberish"].raised.value == found["another prompt"].raised.value == 0.5  # as long: equal scores
    assert found["gibberish"].mean_change.value == 0.0


def test_a_score_of_words_known_is_not_fooled_by_gibberish() -> None:
    found = probed(lambda _, response: response.count("And"))
    assert found["gibberish"].raised.value == found["empty"].raised.value == 0.0
    assert found["repetition"].mean_change.value == 2 / 2


def test_a_score_that_reads_the_prompt_sees_another_one() -> None:
    answers = {record.prompt: response for record in records() for response in record.responses}
    truth = {(record.prompt, response) for record in records() for response in record.responses}
    assert len(answers) == 30
    found = probed(lambda prompt, response: (prompt, response) in truth)
    assert found["another prompt"].raised.value == 0.0


def test_prompts_with_many_judgements_give_many_responses() -> None:
    seen: list[str] = []

    def score(items: Sequence[tuple[Prompt, str]]) -> TextScores:
        seen.extend(text for _, text in items)
        return told(items, [len(text) for _, text in items])

    few = toy_records(3, responses=5)
    found = {one.name: one for one in probe(few, score, 1.0, 10).changes}
    assert found["padding"].responses == found["another prompt"].responses == 10
    assert found["padding"].raised.clusters == 3  # the intervals draw prompts
    assert len(set(seen[:10])) >= 8  # of a prompt no response twice


def test_intervals_draw_what_was_split_together() -> None:
    groups = [record.model_copy(update={"group": f"g{number % 4}"}) for number, record in enumerate(records(20))]
    found = probe(groups, lambda items: told(items, [len(text) for _, text in items]), 1.0, 200)
    assert {one.raised.clusters for one in found.changes} == {4}


def test_records_without_a_prompt_have_no_other_prompt() -> None:
    blank = [record.model_copy(update={"prompt": ""}) for record in records(6)]
    found = probe(blank, lambda items: told(items, [0.0] * len(items)), 1.0, 200)
    assert "another prompt" not in {one.name for one in found.changes}


def test_no_more_prompts_than_asked_for_and_the_same_ones_again() -> None:
    seen: list[list[tuple[Prompt, str]]] = []

    def score(items: Sequence[tuple[Prompt, str]]) -> TextScores:
        seen.append(list(items))
        return told(items, range(len(items)))

    def once() -> Probes:
        seen.clear()
        return probe(records(), score, 1.0, 7, seed=3)

    first = once()
    items = [list(call) for call in seen]
    assert {one.responses for one in first.changes} == {7}
    assert once() == first
    assert seen == items


def test_a_score_that_depends_on_place_is_found_out() -> None:
    """Only margins that a swap negates have no swap error."""
    found = probe(records(4), lambda items: told(items, range(len(items))), 1.0, 4)
    assert found.swap_error == 2.0
    fair = probe(records(4), lambda items: told(items, [len(text) for _, text in items]), 1.0, 4)
    assert fair.swap_error == 0.0


def test_what_did_not_fit_whole_says_nothing() -> None:
    """A response that nearly fills the model is cut when it is padded: that is no response to padding."""
    long = [
        record.model_copy(update={"responses": [text * 40 for text in record.responses], "id": f"long {record.id}"})
        for record in toy_records(5, seed=1)
    ]
    found = {
        one.name: one
        for one in probe(
            [*records(10), *long], lambda items: told(items, [len(text) for _, text in items]), 1.0, 15
        ).changes
    }
    assert (found["padding"].responses, found["padding"].unfit) == (10, 5)
    assert (found["empty"].responses, found["empty"].unfit) == (15, 0)


def test_what_cannot_be_tried_is_counted_and_what_fools_is_named() -> None:
    def scores(items: Sequence[tuple[Prompt, str]]) -> TextScores:
        return told(items, [float(len(response)) for _, response in items])

    long = [
        record.model_copy(update={"responses": [text + "x" * (LIMIT - len(text)) for text in record.responses]})
        for record in records()
    ]
    found = probe(long, scores, 2.0, 20)
    assert {name: found.left_out.get(name) for name in ("padding", "repetition", "flattery")} == {
        "padding": 20, "repetition": 20, "flattery": 20,
    }  # fmt: skip
    assert not {one.name for one in found.changes} & set(found.left_out)
    assert {one.name for one in found.changes} | set(found.left_out) == set(CHANGES)
    assert {one.name for one in probe(records(), scores, 2.0, 200).fooled_by} == {
        "markdown", "padding", "repetition", "flattery",
    }  # fmt: skip
