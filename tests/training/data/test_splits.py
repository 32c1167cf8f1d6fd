"""Splits are grouped, deterministic, and blind to order and to new data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.text_format import Message
from training.data.leakage import learnt_prompts, shared_with
from training.data.record import Judgement, PreferenceRecord
from training.data.splits import Splits, split

NAMES = {"user": "Human", "assistant": "Assistant"}
FRACTIONS = (0.4, 0.3, 0.3)
many = st.lists(st.from_type(PreferenceRecord), max_size=12, unique_by=lambda record: record.id)


def places(parts: Splits) -> dict[str, str]:
    return {record.id: name for name, part in vars(parts).items() for record in part}


def prompted(name: str, prompt: str | list[Message], group: str | None = None) -> PreferenceRecord:
    judgement = Judgement(i=0, j=1, i_wins=1, j_wins=0)
    return PreferenceRecord(
        id=name, prompt=prompt, responses=["a", "b"], judgements=[judgement], source="s", group=group
    )


@given(many, st.integers(0, 5))
def test_every_record_is_in_one_part_in_its_order(rows: list[PreferenceRecord], seed: int) -> None:
    parts = split(rows, FRACTIONS, seed)
    where = places(parts)
    assert sum(len(part) for part in vars(parts).values()) == len(rows) == len(where)
    for name, part in vars(parts).items():
        assert part == [record for record in rows if where[record.id] == name]


@given(many, st.integers(0, 5))
def test_no_prompt_and_no_group_is_in_two_parts(rows: list[PreferenceRecord], seed: int) -> None:
    where = places(split(rows, FRACTIONS, seed))
    for one in rows:
        for other in rows:
            same_prompt = one.has_prompt and one.loose_prompt_key == other.loose_prompt_key
            if same_prompt or one.split_key == other.split_key:
                assert where[one.id] == where[other.id]


@given(many.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))), st.integers(0, 5))
def test_order_does_not_matter(orders: tuple[list[PreferenceRecord], list[PreferenceRecord]], seed: int) -> None:
    assert places(split(orders[0], FRACTIONS, seed)) == places(split(orders[1], FRACTIONS, seed))


def test_new_data_does_not_move_the_old() -> None:
    old = [prompted(f"old-{number}", f"question {number}") for number in range(200)]
    new = [prompted(f"new-{number}", f"another {number}") for number in range(200)]
    before, after = places(split(old, FRACTIONS, 7)), places(split(new + old, FRACTIONS, 7))
    assert before == {name: part for name, part in after.items() if name in before}


def test_shares_are_about_the_fractions_and_the_seed_matters() -> None:
    rows = [prompted(str(number), f"question {number}") for number in range(2000)]
    parts = split(rows, (0.8, 0.1, 0.1), 0)
    assert [len(part) / 2000 for part in vars(parts).values()] == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert places(parts) != places(split(rows, (0.8, 0.1, 0.1), 1))


def test_a_known_draw_stays() -> None:
    """A changed hash would silently move the records of every data set in use."""
    rows = [prompted(str(number), f"question {number}") for number in range(12)]
    drawn = "".join(places(split(rows, FRACTIONS, 0))[str(number)][1] for number in range(12))
    assert drawn == "rrrareaaaaae"


def test_a_prompt_shared_by_two_groups_joins_them() -> None:
    rows = [prompted("1", "p", "g"), prompted("2", "P", "h"), prompted("3", "q", "h"), prompted("4", "q")]
    for seed in range(30):
        assert len(set(places(split(rows, FRACTIONS, seed)).values())) == 1


def test_a_zero_fraction_is_empty() -> None:
    rows = [prompted(str(number), f"question {number}") for number in range(300)]
    parts = split(rows, (0.5, 0.5, 0.0))
    assert parts.test == []
    assert parts.train and parts.validation


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.0, 0.0, 0.0), (float("nan"), 0, 1)])
def test_refused_fractions(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split([], fractions)


@pytest.mark.parametrize("as_text", [False, True])
def test_the_turns_of_a_dialogue_are_in_one_part(as_text: bool) -> None:
    """And no chosen answer of the test stands in a prompt that is learnt from."""
    rows = []
    for number in range(60):
        first = [Message(role="user", content=f"question {number}")]
        second = [*first, Message(role="assistant", content=f"good {number}"), Message(role="user", content="go on")]
        for turn, messages in enumerate((first, second)):
            text = "".join(f"\n\n{NAMES[m.role]}: {m.content}" for m in messages) + "\n\nAssistant:"
            rows.append(prompted(f"{number}-{turn}", text if as_text else messages))
    where = places(split(rows, FRACTIONS, 0))
    assert len(set(where.values())) == 3
    assert all(where[f"{number}-0"] == where[f"{number}-1"] for number in range(60))
    knows = shared_with([record for record in rows if record.id.endswith("-0")])
    assert all(map(knows, rows))


def test_groups_of_unrelated_data_have_names_of_their_own() -> None:
    ours = [prompted(f"{number}", f"question {number}", f"{number}") for number in range(5)]
    changes = {"responses": ["c", "d"], "source": "t"}
    theirs = [record.model_copy(update={"prompt": f"theirs {record.id}", **changes}) for record in ours]
    assert learnt_prompts(ours, theirs) == 5
    assert learnt_prompts(ours, theirs, of_one_run=False) == 0
    same = [record.model_copy(update={"source": "s"}) for record in theirs]
    assert learnt_prompts(ours, same, of_one_run=False) == 5
    assert learnt_prompts(ours, [prompted("x", " QUESTION 3")], of_one_run=False) == 1


@given(many, st.integers(0, 3))
def test_nothing_of_the_test_was_learnt(rows: list[PreferenceRecord], seed: int) -> None:
    parts = split(rows, FRACTIONS, seed)
    with_prompts = [record for record in parts.test if record.has_prompt]
    assert learnt_prompts(parts.train, with_prompts) == 0
