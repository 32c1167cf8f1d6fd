"""Merging by prompt keeps every vote and every response."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.data.merge import add_up_votes, merge_by_prompt
from training.data.pairs import pairs_of
from training.data.record import Judgement, PreferenceRecord


def votes_for(merged: list[PreferenceRecord]) -> Counter[tuple[str, ...]]:
    """Votes by prompt, source, group, winner and loser; ties by the two in order."""
    votes: Counter[tuple[str, ...]] = Counter()
    for pair in pairs_of(merged):
        place = (pair.record.prompt_key, pair.record.source, str(pair.record.group))
        votes[(*place, "win", pair.text_i, pair.text_j)] += int(pair.judgement.i_wins)
        votes[(*place, "win", pair.text_j, pair.text_i)] += int(pair.judgement.j_wins)
        votes[(*place, "tie", *sorted((pair.text_i, pair.text_j)))] += int(pair.judgement.ties)
    return votes


@given(st.lists(st.from_type(PreferenceRecord), max_size=8))
def test_no_vote_and_no_response_is_lost(given_records: list[PreferenceRecord]) -> None:
    merged = merge_by_prompt(given_records)
    assert votes_for(merged) == votes_for(given_records)
    texts = {(record.prompt_key, text) for record in given_records for text in record.responses}
    assert {(record.prompt_key, text) for record in merged for text in record.responses} == texts


@given(st.lists(st.from_type(PreferenceRecord), max_size=8))
def test_one_record_per_prompt_and_one_judgement_per_pair_and_terms(
    given_records: list[PreferenceRecord],
) -> None:
    merged = [record for record in merge_by_prompt(given_records) if record.has_prompt]
    keys = [(r.prompt_key, r.source, r.group, r.category, r.qualities is None) for r in merged]
    assert len(keys) == len(set(keys))
    for record in merged:
        judged = [(judgement.i, judgement.j, judgement.terms) for judgement in record.judgements]
        assert len(judged) == len(set(judged))
        assert all(i < j for i, j, _ in judged)


@given(st.lists(st.from_type(PreferenceRecord), max_size=8))
def test_merging_again_changes_nothing(given_records: list[PreferenceRecord]) -> None:
    merged = merge_by_prompt(given_records)
    assert merge_by_prompt(merged) == merged


@given(
    st.lists(st.from_type(PreferenceRecord), max_size=6).flatmap(
        lambda rows: st.tuples(st.just(rows), st.permutations(rows))
    )
)
def test_order_changes_no_count(orders: tuple[list[PreferenceRecord], list[PreferenceRecord]]) -> None:
    one, other = (merge_by_prompt(order) for order in orders)
    assert votes_for(one) == votes_for(other)
    assert len(one) == len(other)


def test_pairs_of_one_prompt_become_one_record() -> None:
    def pair(name: str, first: str, second: str) -> PreferenceRecord:
        judgement = Judgement(i=0, j=1, i_wins=1, j_wins=0)
        return PreferenceRecord(id=name, prompt="p", responses=[first, second], judgements=[judgement], source="s")

    merged = merge_by_prompt([pair("1", "a", "b"), pair("2", "b", "c"), pair("3", "b", "a"), pair("4", "a", "b")])
    assert [record.id for record in merged] == ["1"]
    assert merged[0].responses == ["a", "b", "c"]
    assert merged[0].judgements == [
        Judgement(i=0, j=1, i_wins=2, j_wins=1),
        Judgement(i=1, j=2, i_wins=1, j_wins=0),
    ]


def test_equal_responses_judged_against_each_other_stay_two() -> None:
    tie = Judgement(i=0, j=1, i_wins=0, j_wins=0, ties=1)
    record = PreferenceRecord(id="1", prompt="p", responses=["a", "a"], judgements=[tie], source="s")
    merged = merge_by_prompt([record, record.model_copy(update={"id": "2"})])
    assert merged[0].responses == ["a", "a"]
    assert merged[0].judgements[0].ties == 2


def total(records: list[PreferenceRecord]) -> Counter[tuple[str, ...]]:
    """Votes by prompt, winner and loser, whatever record they are in."""
    whole: Counter[tuple[str, ...]] = Counter()
    for place, votes in votes_for(records).items():
        whole[(place[0], *place[3:])] += votes
    return whole


@given(st.lists(st.from_type(PreferenceRecord), max_size=8))
def test_votes_on_a_pair_end_up_in_one_judgement(records: list[PreferenceRecord]) -> None:
    added = add_up_votes(records)
    assert total(added) == total(records)
    judged = Counter(
        (pair.key, (pair.judgement if pair.in_order else pair.judgement.flipped()).terms)
        for pair in pairs_of(added)
        if pair.text_i != pair.text_j
    )
    assert set(judged.values()) <= {1}
    assert all(record.judgements for record in added)
    assert add_up_votes(added) == added
