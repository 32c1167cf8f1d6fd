"""What each judgement weighs for each head."""

import re

import numpy as np
import pytest

from tests.training.tiny import toy_records
from training.data import Judgement, PreferenceRecord
from training.heads import Heads
from training.judgement_weights import check_aspects, column_of, judgement_weights

ASPECTS = Heads(kind="aspects", weights={"helpful": 1.0, "harmless": 2.0})


def record(*judgements: Judgement, name: str = "r") -> PreferenceRecord:
    return PreferenceRecord(id=name, prompt="p", responses=["a", "b"], judgements=list(judgements), source="s")


def pair(i_wins: float = 1, **terms: object) -> Judgement:
    return Judgement.model_validate({"i": 0, "j": 1, "i_wins": i_wins, "j_wins": 0, **terms})


def test_all_alike_by_default() -> None:
    weights = judgement_weights(toy_records(3, responses=3), Heads())
    assert [weight.tolist() for weight in weights] == [[[1.0]] * 3] * 3


def test_weights_of_the_data_and_of_votes_average_to_one() -> None:
    records = [record(pair(3), pair(1, weight=2.0)), record(pair(2))]
    by_data = np.concatenate(judgement_weights(records, Heads()))
    assert by_data[:, 0] == pytest.approx([0.75, 1.5, 0.75])
    by_votes = np.concatenate(judgement_weights(records, Heads(), "votes"))
    assert by_votes[:, 0] == pytest.approx(np.array([3, 2, 2]) * 3 / 7)


def test_members_learn_from_prompts_drawn_anew() -> None:
    records = toy_records(400, responses=3)
    heads = Heads.ensemble(5)
    weights = np.stack(judgement_weights(records, heads))
    assert (weights == weights[:, :1]).all()  # the judgements of a prompt are drawn together
    counts = weights[:, 0] * 5
    assert counts == pytest.approx(np.round(counts))
    assert counts.mean() == pytest.approx(1, abs=0.06)
    assert counts.var() == pytest.approx(1, abs=0.15)
    assert np.abs(np.corrcoef(counts.T) - np.eye(5)).max() < 0.2


@pytest.mark.parametrize("seed", range(10))
def test_no_member_is_left_without_data(seed: int) -> None:
    weights = np.concatenate(judgement_weights(toy_records(2), Heads.ensemble(5), seed=seed))
    assert (weights.sum(0) > 0).all()


def test_too_few_prompts_for_so_many_members_are_refused() -> None:
    """A member that learns nothing would count in the reward as it was drawn."""
    with pytest.raises(ValueError, match="model.ensemble is 64: of 2 training prompts some member would learn nothing"):
        judgement_weights(toy_records(2), Heads.ensemble(64))


def test_weights_of_many_votes_do_not_overflow() -> None:
    many = [record.model_copy(update={"judgements": [
        judgement.model_copy(update={"i_wins": 1e39 * judgement.i_wins, "j_wins": 1e39 * judgement.j_wins})
        for judgement in record.judgements
    ]}) for record in toy_records(3)]  # fmt: skip
    assert np.concatenate(judgement_weights(many, Heads(), "votes")) == pytest.approx(np.ones((3, 1)))


def test_draws_depend_on_seed_and_record_alone() -> None:
    records = toy_records(20)
    heads = Heads.ensemble(3)
    weights = judgement_weights(records, heads, seed=1)
    again = judgement_weights(records[::-1], heads, seed=1)[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(weights, again, strict=True))
    assert not np.array_equal(weights, judgement_weights(records, heads, seed=2))


def test_a_judgement_teaches_its_aspect_or_the_sum() -> None:
    given_record = record(pair(aspect="harmless"), pair(), pair(aspect="helpful", weight=4.0))
    (weights,) = judgement_weights([given_record], ASPECTS)
    assert weights.tolist() == [[0.0, 0.0, 0.5], [0.5, 0.0, 0.0], [0.0, 2.0, 0.0]]
    assert [column_of(judgement, ASPECTS) for judgement in given_record.judgements] == [2, 0, 1]
    assert [column_of(judgement, Heads()) for judgement in given_record.judgements] == [0, 0, 0]


def test_aspects_that_do_not_fit_the_heads_are_named() -> None:
    known = [record(pair(aspect="helpful"), pair(aspect="harmless"))]
    check_aspects(known, [], ASPECTS)
    check_aspects(known, [], Heads.ensemble(2))
    odd = record(pair(aspect="funny"), name="odd")
    for train, others in (([*known, odd], []), (known, [odd])):
        with pytest.raises(ValueError, match="record 'odd' has a judgement on the aspect 'funny', and model.aspects"):
            check_aspects(train, others, ASPECTS)
    silent = re.escape("no training judgement is on the aspect 'harmless'; rows name it in `aspect`")
    with pytest.raises(ValueError, match=silent):
        check_aspects([record(pair(aspect="helpful"))], known, ASPECTS)
