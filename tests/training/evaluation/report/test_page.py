"""The page: whole in one file, safe against what the texts hold, and without parts that a model has not."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from service.bundle.calibration import Calibration
from service.bundle.layout import Family
from tests.pocket import pocket_formatter
from tests.training.tiny import tiny_checkpoint, toy_records
from training.data import Judgement, PreferenceRecord
from training.encoding import encode_records
from training.evaluation.analysis import analyse
from training.evaluation.evaluate import evaluate, judged_pairs
from training.evaluation.metrics import FloatArray
from training.evaluation.probes import probe
from training.evaluation.report.page import Subject, page, responses_of
from training.heads import Heads
from training.text_scorer import Prompt, TextScores

CALIBRATION = Calibration(centre=0.0, scale=1.0, temperature=0.7, quantiles={})
SOURCE = {"count": 1, "examples": ["toy-1 <b>repeats</b> toy-2"]}
ACCOUNT = {
    "sources": {"train": ["mine.jsonl"], "validation": [], "test": []},
    "rows": {"read": 10, "skipped": 1},
    "parts": {"train": {"prompts": 5, "responses": 10, "judgements": 5}},
    "repeated_judgements_removed": 0,
    "leaking_prompts_dropped": 0,
    "hygiene": {"records": 3, "exact_duplicates": SOURCE},
    "leakage": None,
    "annotators": None,
    "contaminated": None,
}


def lengths_of(items: Sequence[tuple[Prompt, str]]) -> TextScores:
    texts = [text for _, text in items]
    return TextScores(
        np.array([float(len(text)) for text in texts]), [t.encode() for t in texts], np.zeros(len(texts), int)
    )


def rendered(
    records: list[PreferenceRecord],
    heads: Heads = Heads(),
    probes: bool = True,
    temperature: float = 0.7,
    learnt_prompts: int | None = 0,
) -> str:
    examples = encode_records(records, pocket_formatter(max_tokens=256), progress=False)
    generator = np.random.default_rng(0)
    scores: list[FloatArray] = [
        np.array([[text.count("+")] * len(heads.outputs) for text in record.responses])
        + generator.normal(size=(len(record.responses), len(heads.outputs)))
        for record in records
    ]
    rewards = [part[:, 0] for part in scores]
    evaluation = replace(evaluate(examples, rewards, temperature), learnt_prompts=learnt_prompts)
    made = probe(records, lengths_of, 1.0, 5) if probes else None
    analysis = analyse(examples, scores, heads, temperature, made)
    pairs = judged_pairs(examples, rewards)
    subject = Subject(
        "mine", "a backbone", heads.outputs, 256, "0" * 64, ACCOUNT,
        tiny_checkpoint(Family.CAUSAL).description.provenance,
    )  # fmt: skip
    lengths = [[len(text) for text in record.responses] for record in records]
    decided = pairs.select(pairs.preference != 0.5)
    return page(subject, evaluation, analysis, CALIBRATION, decided, responses_of(rewards, lengths))


class Elements(HTMLParser):
    """Every element, whether each is closed, and what is loaded."""

    VOID = ("meta", "br", "path", "use", "line", "rect", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def elements(html: str) -> Elements:
    parser = Elements()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_else() -> None:
    html = rendered(toy_records(30, responses=4))
    found = elements(html)
    assert all(target.startswith("#") for target in found.loaded)
    assert "script" not in found.seen
    assert "@import" not in html
    assert "url(http" not in html
    assert found.seen.count("svg") == 6


@pytest.mark.parametrize(
    ("heads", "section"),
    [(Heads(), None), (Heads.ensemble(3), "Disagreement"), (Heads(kind="aspects", weights={"kind": 1.0}), None)],
    ids=["single", "ensemble", "aspects"],
)
def test_sections_are_those_that_the_model_has(heads: Heads, section: str | None) -> None:
    html = rendered(toy_records(30, responses=2), heads)
    headings = re.findall(r"<h2 id=\"(\w+)\"", html)
    expected = ["figures", "calibration", "length", "slices", "probes", "mistakes", "data", "provenance"]
    assert headings == (expected if section is None else [*expected[:5], "disagreement", *expected[5:]])
    linked = re.findall(r"href=\"#(\w+)\">\w", html)
    assert set(linked) == set(headings)
    assert "probes" not in re.findall(r"<h2 id=\"(\w+)\"", rendered(toy_records(30, responses=2), heads, probes=False))
    assert 'id="bestofn"' in rendered(toy_records(30, responses=3), heads)


def test_what_makes_the_figures_doubtful_is_said_with_them() -> None:
    records = toy_records(30, responses=2)
    sound = rendered(records)
    assert "too good" not in sound
    assert "at its bound" not in sound
    doubtful = rendered(records, temperature=0.01, learnt_prompts=7)
    assert "has learnt from 7 of the 30 prompts, their dialogues or groups: the figures are too good" in doubtful
    unknown = rendered(records, learnt_prompts=None)
    assert "Whether the model has learnt from some of the prompts is not known" in unknown
    assert "is at its bound: all validation pairs are ordered rightly" in doubtful
    assert "is at its bound: the scores do not tell who wins" in rendered(records, temperature=99.9)
    assert re.search(r"do so more often than not:.*padding \(100.0 %\)", doubtful, re.DOTALL)  # it likes length


def test_texts_cannot_become_markup() -> None:
    evil = "</pre><script>alert(1)</script>"
    wrong = [
        PreferenceRecord(
            id=f"r{n}", prompt=f"{evil} {n}", responses=[f"good {evil}", f"+++++ bad {evil}"], source="<i>s</i>",
            judgements=[Judgement(i=0, j=1, i_wins=3, j_wins=1)],
        )
        for n in range(6)
    ]  # fmt: skip
    html = rendered([*wrong, *toy_records(10)])
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<b>repeats</b>" not in html
    elements(html)


def test_an_annotator_is_shown_where_there_are_votes() -> None:
    records = toy_records(30)
    assert "how often an annotator agrees" not in rendered(records)
    voted = []
    for record in records:
        judgements = [j.model_copy(update={"i_wins": 3 * j.i_wins, "j_wins": 3 * j.j_wins}) for j in record.judgements]
        voted.append(record.model_copy(update={"judgements": judgements}))
    assert "how often an annotator agrees with the majority of the others (30 pairs" in rendered(voted)


def test_the_verdict_is_at_the_top() -> None:
    html = rendered(toy_records(30, responses=3))
    assert "is above a coin's and above either rule of length" in html
    assert html.index("verdict") < html.index("Figures")
    assert rendered(toy_records(30, responses=3)) == html  # to the byte


def test_what_is_marked_has_its_footnote() -> None:
    few, many = rendered(toy_records(12), probes=False), rendered(toy_records(160), probes=False)
    assert ")*</td>" in few
    assert "* Drawn over fewer than 20 independent prompts" in few
    assert ")*</td>" not in many
    assert "* Drawn over" not in many
    probed = rendered(toy_records(40))  # five responses of five prompts were changed
    assert ")*</td>" in probed
    assert "* Drawn over fewer than 20 independent prompts" in probed


def test_names_that_look_like_mathematics_or_are_very_long() -> None:
    named = [
        record.model_copy(update={"category": "cost $5 vs a$^$b" if n % 2 else "x" * 300, "source": "数据"})
        for n, record in enumerate(toy_records(30))
    ]
    html = rendered(named, probes=False)
    assert "cost $5 vs a$^$b (15)" in html
    assert f"{'x' * 39}… (15)" in html
