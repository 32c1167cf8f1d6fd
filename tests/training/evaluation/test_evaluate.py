"""Figures of hand-made examples: ties, length, categories, and the page made of them."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from service.bundle.text_format import EncodedItem
from training.data import Judgement, PreferenceRecord
from training.encoding import Example
from training.evaluation.evaluate import Evaluation, calibrate, evaluate, judged_pairs
from training.evaluation.metrics import FloatArray
from training.evaluation.summary import summary


def example(
    lengths: list[int],
    judgements: list[tuple[int, int, int, int, int]],
    category: str | None = None,
    removed: int = 0,
    prompt: str | None = None,
) -> Example:
    """Responses of the lengths, and judgements (i, j, i_wins, j_wins, ties)."""
    record = PreferenceRecord(
        id=f"{lengths}{judgements}",
        prompt=prompt or f"{lengths}{judgements}",
        responses=["x" * length for length in lengths],
        judgements=[
            Judgement(i=i, j=j, i_wins=wins, j_wins=losses, ties=ties) for i, j, wins, losses, ties in judgements
        ],
        source="s",
        category=category,
    )
    items = tuple(EncodedItem(np.array([1, 2]), removed, 1) for _ in lengths)
    return Example(record, items)


def array(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float64)


EXAMPLES = [
    example([10, 100], [(0, 1, 1, 0, 0)], "short is better"),  # right, and the length rule wrong
    example([10, 100], [(0, 1, 0, 1, 0)], "long is better"),  # wrong, and the rule right
    example([90, 100, 99], [(0, 1, 2, 1, 0), (1, 2, 0, 0, 1), (0, 2, 0, 3, 0)]),  # right, a tie, right
]
SCORES = [array(2, 1), array(1, 0), array(1, 0, 4)]


def test_judgements_are_lined_up_with_their_scores() -> None:
    pairs = judged_pairs(EXAMPLES, SCORES)
    assert pairs.score_i.tolist() == [2, 1, 1, 0, 1]
    assert pairs.score_j.tolist() == [1, 0, 0, 4, 4]
    assert pairs.preference.tolist() == pytest.approx([1, 0, 2 / 3, 0.5, 0])
    assert pairs.length_i.tolist() == [10, 10, 90, 100, 90]
    assert pairs.length_j.tolist() == [100, 100, 100, 99, 99]
    assert pairs.cluster.tolist() == [0, 1, 2, 2, 2]


def test_records_of_one_prompt_are_one_cluster_and_one_prompt() -> None:
    parts = [example([10, 20], [(0, 1, 1, 0, 0)], category, prompt="The same") for category in "ab"]
    parts += [example([10, 20], [(0, 1, 1, 0, 0)], "b", prompt="the  same"), example([5, 6], [(0, 1, 1, 0, 0)], "b")]
    scores = [array(2, 1), array(1, 2), array(2, 1), array(2, 1)]
    assert judged_pairs(parts, scores).cluster.tolist() == [0, 0, 0, 1]
    figures = evaluate(parts, scores, temperature=1.0)
    assert (figures.prompts, figures.pairs) == (2, 4)
    assert (figures.accuracy.low, figures.accuracy.high) == (pytest.approx(2 / 3), 1.0)  # the one prompt or the other


def test_figures() -> None:
    figures = evaluate(EXAMPLES, SCORES, temperature=2.0)
    assert (figures.prompts, figures.pairs, figures.ties) == (3, 5, 1)
    assert figures.accuracy.value == pytest.approx(3 / 4)
    assert figures.length_rule.value == pytest.approx(2 / 4)  # it is right on "long is better" and on (0, 2)
    assert figures.matched_pairs == 2
    assert figures.length_matched is not None
    assert figures.length_rule_matched is not None
    assert figures.length_matched.value == 1
    assert figures.length_rule_matched.value == 0.5
    assert figures.by_category == {}  # one prompt each: an interval would only look sure
    assert figures.temperature == 2.0
    assert figures.truncated == 0
    assert figures.spearman_length is not None


def test_swapping_sides_changes_no_figure() -> None:
    """Position check: responses and judgements in another order are the same evidence."""
    turned = []
    for item in EXAMPLES:
        last = len(item.record.responses) - 1
        judgements = [
            judgement.model_copy(update={"i": last - judgement.i, "j": last - judgement.j}).flipped()
            for judgement in item.record.judgements
        ]
        record = item.record.model_copy(update={"responses": item.record.responses[::-1], "judgements": judgements})
        turned.append(Example(record, item.items[::-1]))
    one = asdict(evaluate(EXAMPLES, SCORES, 2.0))
    other = asdict(evaluate(turned, [scores[::-1] for scores in SCORES], 2.0))
    assert json.loads(json.dumps(other), parse_float=lambda text: round(float(text), 9)) == json.loads(
        json.dumps(one), parse_float=lambda text: round(float(text), 9)
    )


def test_no_pair_of_similar_length_and_no_category() -> None:
    figures = evaluate(EXAMPLES[:1], SCORES[:1], 1.0)
    assert figures.length_matched is None
    assert figures.length_rule_matched is None
    page = summary("mine", evaluate([example([10, 100], [(0, 1, 1, 0, 0)])], SCORES[:1], 1.0))
    assert "| accuracy on 0 pairs of similar length | none |" in page
    assert "category" not in page


def test_constant_lengths_have_no_correlation_and_still_make_json_and_a_page() -> None:
    figures = evaluate([example([10, 10], [(0, 1, 1, 0, 0)])], [array(1, 0)], 1.0)
    assert figures.spearman_length is None
    text = json.dumps(figures.as_json(), allow_nan=False)
    assert TypeAdapter(Evaluation).validate_python(json.loads(text)) == figures
    assert "rank correlation of score and length within a prompt | none |" in summary("mine", figures)


def test_only_ties() -> None:
    with pytest.raises(ValueError, match="no judged pair has a majority"):
        evaluate([example([1, 2], [(0, 1, 0, 0, 2)])], [array(1, 0)], 1.0)


def test_cut_items_are_counted() -> None:
    items = [example([10, 11], [(0, 1, 1, 0, 0)], removed=3), example([10, 11], [(0, 1, 1, 0, 0)])]
    figures = evaluate(items, [array(1, 0), array(1, 0)], 1.0)
    assert figures.truncated == 0.5
    assert "items cut to fit | 50.0 % |" in summary("mine", figures)


def verdict(lengths: list[int], wins: list[int], right: float) -> str | None:
    """Of a model that is right on a share of pairs: forty prompts, of which the first response wins in `wins`."""
    examples = [
        example(lengths if n % 2 else lengths[::-1], [(0, 1, wins[n], 1 - wins[n], 0)], prompt=f"{n}")
        for n in range(40)
    ]
    scores = [array(1, 0) if (wins[n] == 1) == (n * 7 % 40 < right * 40) else array(0, 1) for n in range(40)]
    return evaluate(examples, scores, 1.0).verdict


def test_verdict() -> None:
    either = [n // 2 % 2 for n in range(40)]  # the longer and the shorter win alike
    shorter = [n % 2 for n in range(40)]
    assert verdict([10, 100], either, 1.0) is None
    assert verdict([10, 100], either, 0.4) == "is not clearly above a coin's"
    assert verdict([10, 100], shorter, 1.0) == "is not clearly above the rule that the shorter answer wins"
    longer = [1 - wins for wins in shorter]
    assert verdict([10, 100], longer, 0.9) == "is not clearly above the rule that the longer answer wins"
    for count, told in ((5, "is of fewer than 6 prompts, which luck can get right"), (6, None)):
        few = [example([30, 30], [(0, 1, 1, 0, 0)], prompt=f"{n}") for n in range(count)]
        assert evaluate(few, [array(1, 0)] * count, 1.0).verdict == told
    page = summary("mine", evaluate(EXAMPLES, SCORES, 1.0))
    assert "**The accuracy is not clearly above a coin's: do not rely on this model" in page


def test_what_a_coin_and_what_the_votes_get() -> None:
    voted = [example([10, 100], [(0, 1, 3, 2, 0)], prompt=f"{n}") for n in range(4)]
    figures = evaluate(voted, [array(0, 0)] * 4, 1.0)
    assert figures.brier_coin == pytest.approx(0.01)
    assert figures.brier == figures.brier_coin
    assert figures.log_loss_votes == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))


@pytest.mark.parametrize(("prompts", "warned"), [(19, True), (20, False)])
def test_an_interval_over_few_prompts_is_marked(prompts: int, warned: bool) -> None:
    examples = [example([10, 100], [(0, 1, 1, 0, 0)], prompt=f"{n}") for n in range(prompts)]
    figures = evaluate(examples, [array(1, 0)] * prompts, 1.0)
    assert figures.accuracy.clusters == prompts
    page = summary("mine", figures)
    assert (r"| accuracy | 100.0 % (100.0 to 100.0) \* |" in page) == warned
    assert (r"\* Drawn over fewer than 20 independent prompts (the least: 19): such an" in page) == warned


def test_calibration() -> None:
    figures = calibrate(EXAMPLES, SCORES)
    everything = np.concatenate(SCORES)
    assert figures.centre == pytest.approx(everything.mean())
    assert figures.scale == pytest.approx(everything.std())
    assert figures.quantiles["0.5"] == pytest.approx(np.median(everything))
    assert list(figures.quantiles.values()) == sorted(figures.quantiles.values())
    with pytest.raises(ValueError, match="the same score: the model has learned nothing"):
        calibrate(EXAMPLES[:1], [array(1, 1)])


def test_categories_of_enough_prompts() -> None:
    examples = [example([10, 100], [(0, 1, 1, 0, 0)], "many", prompt=str(n)) for n in range(5)] + EXAMPLES[:1]
    figures = evaluate(examples, [array(2, 1)] * 6, temperature=1.0)
    assert {name: interval.value for name, interval in figures.by_category.items()} == {"many": 1.0}
