"""From records to batches: groups that lose no response, and judgements that point at the right scores."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from service.bundle.layout import GRAPH_INPUTS, Family, plan_layout
from tests.pocket import pocket_formatter, pocket_reward
from tests.training.tiny import toy_records
from training.data import Judgement, PreferenceRecord
from training.encoding import Example, encode_records, truncated
from training.examples import Collator, ElementDataset, ranking
from training.heads import Heads
from training.judgement_weights import judgement_weights


def records(responses: int, count: int = 3) -> list[PreferenceRecord]:
    return toy_records(count, seed=4, responses=responses)


def elements_of(examples: Sequence[Example], max_responses: int = 8, seed: int = 0) -> ElementDataset:
    weights = judgement_weights([example.record for example in examples], Heads())
    return ElementDataset(examples, weights, max_responses, seed)


def test_small_prompts_are_one_element() -> None:
    examples = encode_records(records(4), pocket_formatter(), progress=False)
    dataset = elements_of(examples, max_responses=8, seed=0)
    assert len(dataset) == 3
    assert [len(element.sequences) for element in map(dataset.__getitem__, range(3))] == [4] * 3
    assert [len(element.judgements) for element in map(dataset.__getitem__, range(3))] == [6] * 3


def test_large_prompts_are_grouped_anew_each_epoch_until_all_pairs_were_seen() -> None:
    examples = encode_records(records(5, count=1), pocket_formatter(), progress=False)
    text = {item.ids.tobytes(): number for number, item in enumerate(examples[0].items)}
    dataset = elements_of(examples, max_responses=2, seed=0)
    seen: set[tuple[int, int]] = set()
    for epoch in range(40):
        dataset.set_epoch(epoch)
        elements = [dataset[slot] for slot in range(len(dataset))]
        assert sum(len(element.judgements) for element in elements) == dataset.judgements_seen == 3
        for element in elements:
            assert len(element.sequences) == 2
            for judgement in element.judgements:
                i, j = (text[element.sequences[side].tobytes()] for side in (judgement.i, judgement.j))
                original = [
                    known if (known.i, known.j) == (i, j) else known.flipped()
                    for known in examples[0].record.judgements
                    if {known.i, known.j} == {i, j}
                ]
                assert judgement.soft_label == original[0].soft_label
                seen.add((min(i, j), max(i, j)))
    assert len(seen) == 10


def test_groups_depend_on_seed_epoch_and_record_alone() -> None:
    examples = encode_records(records(7), pocket_formatter(), progress=False)

    def drawn(seed: int, epoch: int, order: list[int]) -> list[bytes]:
        dataset = elements_of(examples, max_responses=3, seed=seed)
        dataset.set_epoch(epoch)
        elements = {slot: dataset[slot] for slot in order}
        return [ids.tobytes() for slot in sorted(order) for ids in elements[slot].sequences]

    slots = list(range(9))
    assert drawn(0, 1, slots) == drawn(0, 1, slots[::-1])
    assert drawn(0, 1, slots) != drawn(0, 2, slots)
    assert drawn(0, 1, slots) != drawn(1, 1, slots)


@pytest.mark.parametrize("family", list(Family))
def test_collated_judgements_point_at_their_responses(family: Family) -> None:
    """Scores by hand for each sequence: the collated indices must pick the two that were judged."""
    examples = encode_records(records(3), pocket_formatter(family), progress=False)
    elements = [elements_of(examples)[slot] for slot in range(3)]
    batch = Collator(family, block_queries=8)(elements)
    assert set(batch) == {
        *GRAPH_INPUTS,
        "first",
        "second",
        "element",
        "preference",
        "tie",
        "margin",
        "length_term",
        "weights",
    }
    sequences = [ids for element in elements for ids in element.sequences]
    layout = plan_layout(sequences, family, block_queries=8)
    for name, expected in layout.arrays().items():
        assert np.array_equal(batch[name].numpy(), expected)
    rewards = [pocket_reward(ids, family) for ids in sequences]
    row = 0
    for number, example in enumerate(examples):
        for judgement in example.record.judgements:
            assert int(batch["element"][row]) == number
            assert float(batch["preference"][row]) == judgement.soft_label
            for side, index in (("first", judgement.i), ("second", judgement.j)):
                assert rewards[int(batch[side][row])] == pocket_reward(example.items[index].ids, family)
            row += 1
    assert row == len(batch["first"])
    assert batch["preference"].dtype == batch["margin"].dtype == torch.float32


def test_margins_and_their_absence() -> None:
    record = records(2, count=1)[0]
    judgement = record.judgements[0]
    with_margin = record.model_copy(update={"judgements": [judgement.model_copy(update={"margin": -1.5}), judgement]})
    examples = encode_records([with_margin], pocket_formatter(), progress=False)
    batch = Collator(Family.CAUSAL, 8)([elements_of(examples)[0]])
    assert batch["margin"].tolist() == [-1.5, 0.0]


def test_ties_lengths_and_weights_of_each_judgement() -> None:
    record = PreferenceRecord.model_validate({
        "id": "r", "prompt": "p", "responses": ["", "four", "sixteen letters."], "source": "s",
        "judgements": [
            {"i": 0, "j": 2, "i_wins": 1, "j_wins": 1, "ties": 2, "weight": 3.0},
            {"i": 2, "j": 1, "i_wins": 1, "j_wins": 0},
        ],
    })  # fmt: skip
    examples = encode_records([record], pocket_formatter(), progress=False)
    dataset = ElementDataset(examples, judgement_weights([record], Heads.ensemble(4)), 8, 0)
    batch = Collator(Family.CAUSAL, 8, length_slope=0.5)([dataset[0]])
    assert batch["tie"].tolist() == [0.5, 0.0]
    assert batch["length_term"].tolist() == pytest.approx([-0.5 * math.log(16), 0.5 * math.log(4)])
    assert batch["weights"].shape == (2, 4)
    assert batch["weights"][0].tolist() == pytest.approx([3 * weight for weight in batch["weights"][1].tolist()])
    assert batch["weights"].dtype == batch["tie"].dtype == batch["length_term"].dtype == torch.float32


def test_weights_follow_their_judgements_into_groups() -> None:
    record = records(6, count=1)[0]
    judgements = [j.model_copy(update={"weight": 1.0 + 6 * j.i + j.j}) for j in record.judgements]
    examples = encode_records(
        [record.model_copy(update={"judgements": judgements})], pocket_formatter(), progress=False
    )
    text = {item.ids.tobytes(): number for number, item in enumerate(examples[0].items)}
    dataset = elements_of(examples, max_responses=3)
    mean = sum(1.0 + 6 * j.i + j.j for j in judgements) / len(judgements)
    for element in map(dataset.__getitem__, range(len(dataset))):
        places = [text[ids.tobytes()] for ids in element.sequences]
        expected = [(1.0 + 6 * places[j.i] + places[j.j]) / mean for j in element.judgements]
        assert element.weights[:, 0].tolist() == pytest.approx(expected)


def test_rankings_point_at_scores_best_first() -> None:
    examples = encode_records([*records(4, count=2), *records(2, count=1)], pocket_formatter(), progress=False)
    dataset = elements_of(examples, max_responses=3)
    elements = [dataset[slot] for slot in range(len(dataset))]
    batch = Collator(Family.CAUSAL, 8, rankings=True)(elements)
    sequences = [ids for element in elements for ids in element.sequences]
    worth = [ids.tolist().count(ord("+")) for ids in sequences]
    owner = [number for number, element in enumerate(elements) for _ in element.sequences]
    assert batch["ranking"].shape == (len(elements), 3)
    for number, row in enumerate(batch["ranking"].tolist()):
        order = [place for place in row if place >= 0]
        assert len(order) == len({place for j in elements[number].judgements for place in (j.i, j.j)})
        assert {owner[place] for place in order} == {number}
        assert [worth[place] for place in order] == sorted((worth[place] for place in order), reverse=True)


def judgement(i: int, j: int, i_wins: float, j_wins: float) -> Judgement:
    return Judgement(i=i, j=j, i_wins=i_wins, j_wins=j_wins, ties=float(i_wins == j_wins == 0))


def test_a_ranking_is_found_in_its_pairs() -> None:
    assert ranking([judgement(0, 1, 0, 1), judgement(2, 1, 2, 1), judgement(0, 2, 0, 1)]) == [2, 1, 0]
    assert ranking([judgement(5, 3, 1, 0)]) == [5, 3]


@pytest.mark.parametrize(
    "judgements",
    [
        [judgement(0, 1, 0, 0)],
        [judgement(0, 1, 1, 0), judgement(1, 2, 1, 0)],
        [judgement(0, 1, 1, 0), judgement(1, 2, 1, 0), judgement(2, 0, 1, 0)],
        [judgement(0, 1, 1, 0), judgement(0, 1, 0, 1)],
    ],
    ids=["tie", "missing pair", "circle", "contradiction"],
)
def test_what_is_no_ranking_is_refused(judgements: list[Judgement]) -> None:
    with pytest.raises(ValueError, match="no ranking: one of a pair of responses is missing, tied or contradicted"):
        ranking(judgements)


def test_no_element_is_without_a_judgement() -> None:
    """Ten responses of which two were compared: one element of those two, not two of which one teaches nothing."""
    record = records(10, count=1)[0]
    compared = next(j for j in record.judgements if (j.i, j.j) == (2, 7))
    examples = encode_records(
        [record.model_copy(update={"judgements": [compared]})], pocket_formatter(), progress=False
    )
    dataset = elements_of(examples)
    for epoch in range(5):
        dataset.set_epoch(epoch)
        (element,) = (dataset[slot] for slot in range(len(dataset)))
        assert [ids.tolist() for ids in element.sequences] == [examples[0].items[k].ids.tolist() for k in (2, 7)]
        assert len(element.judgements) == 1


def test_epochs_are_of_one_length_and_know_what_they_see() -> None:
    examples = encode_records([*records(12, count=2), *records(4, count=1)], pocket_formatter(), progress=False)
    dataset = elements_of(examples)
    assert dataset.judgements == 2 * 66 + 6
    for epoch in range(5):
        dataset.set_epoch(epoch)
        elements = [dataset[slot] for slot in range(len(dataset))]
        assert len(elements) == 2 * 2 + 1
        assert all(element.judgements for element in elements)
        assert 2 * 34 + 6 <= dataset.judgements_seen < dataset.judgements


def test_over_long_items_are_cut_and_counted() -> None:
    formatter = pocket_formatter(max_tokens=16)
    record = records(2, count=1)[0].model_copy(update={"prompt": "a long prompt " * 20})
    examples = encode_records([record, *records(2)], formatter, progress=False)
    assert [len(item.ids) for item in examples[0].items] == [16, 16]
    assert all(item.ids[-1] == formatter.text_format.end[-1] for example in examples for item in example.items)
    assert truncated(examples) == 2 + sum(item.removed > 0 for example in examples[1:] for item in example.items)


def test_what_no_cut_makes_fit_is_named() -> None:
    formatter = pocket_formatter(Family.BIDIRECTIONAL, max_tokens=4)
    record = records(2, count=1)[0]
    examples = encode_records([record], formatter, progress=False)
    assert [len(item.ids) for item in examples[0].items] == [4, 4]
    formatter = pocket_formatter(Family.BIDIRECTIONAL, max_tokens=3)
    with pytest.raises(ValueError, match=f"record '{record.id}', response 0: .* cutting prompt_left and"):
        encode_records([record], formatter, progress=False)


def test_a_mix_sees_a_source_as_often_as_it_says_and_epochs_stay_of_one_length() -> None:
    given = [
        record.model_copy(update={"source": source, "id": f"{source}-{record.id}"})
        for source in ("often", "seldom", "other")
        for record in records(2, count=20)
    ]
    examples = encode_records(given, pocket_formatter(), progress=False)
    weights = judgement_weights(given, Heads())
    dataset = ElementDataset(examples, weights, 8, 0, {"often": 2.5, "seldom": 0.25})
    place = {id(example.items[0].ids): example.record.id for example in examples}
    drawn: list[Counter[str]] = []
    for epoch in range(12):
        dataset.set_epoch(epoch)
        assert len(dataset) == 50 + 5 + 20
        drawn.append(Counter(place[id(dataset[slot].sequences[0])] for slot in range(len(dataset))))
    for seen in drawn:
        assert {seen[name] for name in place.values() if name.startswith("often")} == {2, 3}
        assert all(seen[name] == 1 for name in place.values() if name.startswith("other"))
    assert len({name for seen in drawn for name in seen if name.startswith("seldom")}) > 15
    dataset.set_epoch(3)
    assert Counter(place[id(dataset[slot].sequences[0])] for slot in range(len(dataset))) == drawn[3]


def test_a_small_source_of_a_mix_is_in_every_epoch_and_what_is_seen_is_counted() -> None:
    given = [record.model_copy(update={"source": "rare"}) for record in records(3, count=1)] + records(3, count=9)
    examples = encode_records(given, pocket_formatter(), progress=False)
    dataset = ElementDataset(examples, judgement_weights(given, Heads()), 8, 0, {"rare": 0.1})
    assert len(dataset) == 10
    assert dataset.judgements_seen == dataset.judgements == 30
    half = ElementDataset(examples, judgement_weights(given, Heads()), 8, 0, {given[1].source: 0.5, "rare": 3.0})
    assert len(half) == 3 + round(9 / 2)
    assert half.judgements_seen == 3 * (1 + round(9 / 2))
