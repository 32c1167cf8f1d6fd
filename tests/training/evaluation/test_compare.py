"""Two models on the same pairs: aligned whichever side comes first, and told apart only where the pairs tell."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pocket import pocket_formatter
from tests.training.tiny import toy_records
from training.checkpoint_error import CheckpointError
from training.data import Judgement, PreferenceRecord, shuffle_sides
from training.encoding import encode_records
from training.evaluation.compare import compare, permutation_p_value
from training.evaluation.comparison_text import comparison_text
from training.evaluation.metrics import FloatArray
from training.evaluation.pair_table import PairRow, pair_rows, read_rows, write_rows


def rows_of(records: list[PreferenceRecord], errors: float, seed: int = 0) -> list[PairRow]:
    """A model that takes a share of the responses for worse than they are."""
    generator = np.random.default_rng(seed)
    examples = encode_records(records, pocket_formatter(), progress=False)

    def score(record: PreferenceRecord) -> FloatArray:
        worth = np.array([text.count("+") for text in record.responses], dtype=np.float64)
        return worth * np.where(generator.random(len(worth)) < errors, -1, 1) + generator.normal(size=len(worth)) * 0.01

    return pair_rows(examples, [score(record)[:, None] for record in records], lambda _: 0)


RECORDS = toy_records(200, responses=3)


def test_the_better_model_is_found() -> None:
    found = compare(rows_of(RECORDS, 0.4), rows_of(RECORDS, 0.05))
    every = found.every
    assert (every.pairs, every.prompts) == (600, 200)
    assert every.accuracy_b > every.accuracy_a + 0.1
    assert every.difference.low > 0
    assert every.p_value < 0.001
    assert every.both + every.only_a + every.only_b + every.neither == pytest.approx(600)
    assert found.log_loss_b < found.log_loss_a
    assert found.log_loss_difference.value == pytest.approx(found.log_loss_b - found.log_loss_a)
    assert found.log_loss_difference.high < 0
    assert found.log_loss_p_value < 0.001
    assert f"B - A {found.log_loss_difference.value:+.3f} (" in comparison_text("a", "b", found)
    assert "B is more accurate on these pairs." in comparison_text("a", "b", found)
    turned = compare(rows_of(RECORDS, 0.05), rows_of(RECORDS, 0.4))
    assert "A is more accurate on these pairs." in comparison_text("a", "b", turned)
    assert turned.every.difference.value == pytest.approx(-every.difference.value)


def test_equal_models_are_not_told_apart() -> None:
    found = compare(rows_of(RECORDS, 0.2, 1), rows_of(RECORDS, 0.2, 2))
    assert found.every.p_value > 0.05
    assert "No difference in accuracy is shown" in comparison_text("a", "b", found)
    same = compare(rows_of(RECORDS, 0.2), rows_of(RECORDS, 0.2))
    assert (same.every.difference.value, same.every.p_value) == (0.0, 1.0)


def test_the_order_of_sides_and_records_does_not_matter() -> None:
    rows = rows_of(RECORDS, 0.2)
    shuffled = rows_of([shuffle_sides(record, 7) for record in RECORDS[::-1]], 0.0)
    found = compare(rows, shuffled)
    assert found.every.pairs == 600
    assert (found.only_in_a, found.only_in_b) == (0, 0)
    assert found.every.accuracy_b == 1.0


def test_pairs_that_only_one_has_scored_are_counted() -> None:
    found = compare(rows_of(RECORDS[:120], 0.1), rows_of(RECORDS[100:], 0.1))
    assert (found.every.pairs, found.only_in_a, found.only_in_b) == (60, 300, 240)
    assert "300 pairs are in A's test alone, 240 in B's" in comparison_text("a", "b", found)


def test_each_source_is_compared() -> None:
    two = [record.model_copy(update={"source": f"s{n % 2}"}) for n, record in enumerate(RECORDS)]
    found = compare(rows_of(two, 0.3), rows_of(two, 0.0))
    assert [part.name for part in found.by_source] == ["s0", "s1"]
    assert sum(part.pairs for part in found.by_source) == 600
    assert "| s1 (300 of 100 prompts) |" in comparison_text("a", "b", found)


def test_tests_of_other_data_are_refused() -> None:
    with pytest.raises(ValueError, match="have no pair with a majority in common; evaluate both models on the same"):
        compare(rows_of(RECORDS[:10], 0.1), rows_of(RECORDS[10:20], 0.1))
    rows = rows_of(RECORDS[:10], 0.1)
    other = [rows[0].model_copy(update={"preference": 1 - rows[0].preference}), *rows[1:]]
    with pytest.raises(ValueError, match="the votes on a pair differ between the two tests"):
        compare(rows, other)


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.integers(0, 5)), min_size=1, max_size=30))
def test_a_p_value_is_one_and_does_not_know_which_model_is_first(rows: list[tuple[float, int]]) -> None:
    difference, cluster = (np.array(column) for column in zip(*rows, strict=True))
    p = permutation_p_value(difference, cluster, draws=200)
    assert 1 / 201 <= p <= 1
    assert permutation_p_value(-difference, cluster, draws=200) == p


def test_p_values_of_no_difference_are_uniform() -> None:
    """Where the models are alike, one in ten p-values lies below 0.1."""
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 3)
    # Pairs of a prompt go the same way: as if they were independent, differences would look surer than they are.
    signs = generator.integers(0, 2, (300, 40)) * 2 - 1
    p = [
        permutation_p_value(np.repeat(row, 3).astype(float), clusters, draws=300, seed=n) for n, row in enumerate(signs)
    ]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.05)


def test_rows_survive_a_file(tmp_path: Path) -> None:
    rows = rows_of(RECORDS[:5], 0.1)
    write_rows(tmp_path / "pairs.jsonl", rows)
    assert read_rows(tmp_path / "pairs.jsonl") == rows
    with pytest.raises(CheckpointError, match=r"gone.jsonl is missing; run `assay-train evaluate` first"):
        read_rows(tmp_path / "gone.jsonl")
    (tmp_path / "bad.jsonl").write_text((tmp_path / "pairs.jsonl").read_text() + '{"record": 1}\n')
    with pytest.raises(CheckpointError, match=r"bad.jsonl:16: .*; run `assay-train evaluate` again"):
        read_rows(tmp_path / "bad.jsonl")
    for damaged in ({"preference": 7.0}, {"score_first": None}, {"votes": 0.0}):
        line = rows[0].model_copy(update=damaged).model_dump_json()
        (tmp_path / "bad.jsonl").write_text(line + "\n")
        with pytest.raises(CheckpointError, match=f"bad.jsonl:1: {next(iter(damaged))}"):
            read_rows(tmp_path / "bad.jsonl")


def test_a_text_against_itself_is_left_out_and_several_judgements_of_a_pair_find_each_other() -> None:
    record = RECORDS[0].model_copy(
        update={
            "responses": ["same", "same", "other+"],
            "judgements": [
                Judgement(i=0, j=1, i_wins=3, j_wins=2),
                Judgement(i=0, j=2, i_wins=1, j_wins=0),
                Judgement(i=2, j=1, i_wins=4, j_wins=1),
            ],
        }
    )
    for seed in range(6):
        found = compare(rows_of([record], 0.0), rows_of([shuffle_sides(record, seed)], 0.0))
        assert (found.every.pairs, found.only_in_a, found.only_in_b) == (2, 0, 0)
