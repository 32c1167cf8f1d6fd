"""Duplicates, contradictions, near duplicates and leakage, each found and not found."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from training.data.hygiene import Finding, HygieneReport, check, deduplicate
from training.data.leakage import LeakageReport, check_leakage
from training.data.near_duplicates import near_duplicate_clusters
from training.data.record import Judgement, PreferenceRecord

LONG = "The quick brown fox jumps over the lazy dog while the small cat sleeps by the warm fire in the old house"


def pair(name: str, first: str, second: str, *, prompt: str = "p", **votes: float) -> PreferenceRecord:
    judgement: dict[str, Any] = {"i": 0, "j": 1, "i_wins": 0, "j_wins": 0, **(votes or {"i_wins": 1})}
    return PreferenceRecord.model_validate(
        {"id": name, "prompt": prompt, "responses": [first, second], "judgements": [judgement], "source": "s"}
    )


def found(report: HygieneReport | LeakageReport) -> int:
    """Findings of all kinds."""
    return sum(value.count for value in vars(report).values() if isinstance(value, Finding))


def test_clean_data_has_no_finding() -> None:
    report = check([pair("1", "a", "b"), pair("2", "a", "b", prompt="q"), pair("3", "a", "c")])
    assert found(report) == 0
    assert (report.records, report.judgements) == (3, 3)


def test_exact_duplicates_know_their_direction() -> None:
    rows = [
        pair("1", "a", "b"),
        pair("2", "b", "a", j_wins=1),
        pair("3", "a", "b", ties=1),
        pair("4", "b", "a", ties=1),
        pair("5", "a", "b", i_wins=2),
    ]
    report = check(rows)
    assert report.exact_duplicates.count == 2
    assert report.exact_duplicates.examples == ("2 (0, 1) repeats 1 (0, 1)", "4 (0, 1) repeats 3 (0, 1)")
    assert report.contradictions.count == 0


def test_contradictions_are_counted_once_a_pair() -> None:
    rows = [pair("1", "a", "b"), pair("2", "b", "a"), pair("3", "a", "b"), pair("4", "b", "a", prompt="q")]
    report = check(rows)
    assert report.contradictions.count == 1
    assert report.contradictions.examples == ("2 (0, 1) contradicts 1 (0, 1)",)


def test_a_divided_vote_is_no_contradiction() -> None:
    assert found(check([pair("1", "a", "b", i_wins=3, j_wins=2)])) == 0


def test_identical_responses() -> None:
    report = check([pair("1", "a", "a", ties=1), pair("2", "b", "b")])
    assert report.identical_responses.count == 2
    assert report.identical_decided.examples == ("2 (0, 1)",)
    assert report.contradictions.count == 0


def test_near_duplicates_of_prompts_and_responses() -> None:
    rows = [
        pair("1", LONG, "b", prompt="Why " + LONG),
        pair("2", LONG.upper() + "!", "c", prompt="Why, " + LONG + "?"),
    ]
    report = check(rows)
    assert report.near_duplicate_prompts.count == 1
    assert report.near_duplicate_prompts.examples[0].startswith("2 is nearly 1: 'Why, The quick")
    assert report.near_duplicate_responses.count == 1


def test_deduplicate_drops_true_repeats_alone() -> None:
    rows = [
        pair("1", "a", "b"),
        pair("2", "b", "a", j_wins=1),
        pair("3", "b", "a", i_wins=1),
        pair("4", "a", "b", i_wins=3, j_wins=2),
    ]
    result = deduplicate(rows)
    assert [record.id for record in result.records] == ["1", "3", "4"]
    assert (result.judgements_removed, result.records_removed) == (1, 1)
    assert result.records[0].judgements[0].i_wins == 1


@given(st.lists(st.from_type(PreferenceRecord), max_size=8))
def test_deduplicating_leaves_no_duplicate(rows: list[PreferenceRecord]) -> None:
    result = deduplicate(rows)
    assert check(result.records).exact_duplicates.count == 0
    assert result.judgements_removed == check(rows).exact_duplicates.count
    assert check(result.records).contradictions.count == check(rows).contradictions.count


def test_leakage_by_kind() -> None:
    train = [pair("t", "I won. I laughed.", "I lost.", prompt="How was it?")]
    test = [
        pair("prompt", "x", "y", prompt="how was  it?"),
        pair("response", "i won. I laughed.", "y", prompt="q1"),
        pair("pair", "I lost.", "I won. I laughed.", prompt="How was it?"),
        pair("sentence", "I laughed. I cried.", "y", prompt="q2"),
        pair("clean", "x", "y", prompt="q3"),
    ]
    report = check_leakage(train, test)
    assert report.prompt.examples == ("prompt", "pair")
    assert report.response.examples == ("response", "pair")
    assert report.pair.examples == ("pair",)
    assert report.sentence.examples == ("response", "pair", "sentence")
    assert (report.near_prompt.count, report.records) == (0, 5)


def test_nothing_is_leaked_by_having_no_prompt_or_an_empty_response() -> None:
    assert found(check_leakage([pair("1", "a", "", prompt="")], [pair("2", "b", "", prompt="")])) == 0


def test_near_prompts_of_training() -> None:
    report = check_leakage([pair("1", "a", "b", prompt=LONG)], [pair("2", "c", "d", prompt=LONG + " tonight")])
    assert (report.near_prompt.examples, report.prompt.count) == (("2",), 0)


def test_near_duplicate_clusters() -> None:
    texts = [LONG, "", "something else entirely, with words of its own", LONG + " now", "", LONG.lower()]
    assert near_duplicate_clusters(texts) == [[0, 3, 5]]
    assert near_duplicate_clusters(["a b", "A, b!", "b a"]) == [[0, 1]]
    assert near_duplicate_clusters([]) == []


words = st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join)


@given(st.lists(words, max_size=10).flatmap(lambda texts: st.tuples(st.just(texts), st.permutations(texts))))
def test_clusters_do_not_depend_on_order(orders: tuple[list[str], list[str]]) -> None:
    one, other = (
        sorted(sorted(texts[member] for member in members) for members in near_duplicate_clusters(texts))
        for texts in orders
    )
    assert one == other


def test_to_win_on_one_aspect_and_lose_on_another_is_no_contradiction() -> None:
    def judged(aspect: str | None, other: str | None) -> int:
        record = PreferenceRecord(
            id="r", prompt="p", responses=["a", "b"], source="s",
            judgements=[
                Judgement(i=0, j=1, i_wins=1, j_wins=0, aspect=aspect),
                Judgement(i=0, j=1, i_wins=0, j_wins=1, aspect=other),
            ],
        )  # fmt: skip
        return check([record]).contradictions.count

    assert judged("helpful", "harmless") == 0
    assert judged("helpful", "helpful") == judged(None, None) == 1
