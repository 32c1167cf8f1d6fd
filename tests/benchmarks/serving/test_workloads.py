import itertools
import random

import pytest

from benchmarks.serving.rendering import Renderer
from benchmarks.serving.workloads import WORKLOADS, Texts, fitting
from service.bundle.layout import Family
from tests.pocket import write_pocket_bundle

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nobody", "looks", "on"]


def words(text: str, tokens: int) -> str:
    """A tokenizer of words."""
    return " ".join(text.split()[:tokens])


@pytest.fixture(scope="module")
def texts() -> Texts:
    draw = random.Random(0)
    singles = [
        (f"question {n} " + " ".join(draw.choices(WORDS, k=n % 50 + 3)), " ".join(draw.choices(WORDS, k=n % 70 + 2)))
        for n in range(300)
    ]
    return Texts(singles, lambda text: len(text.split()), words)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_gives_the_same_requests_and_another_one_others(name, texts):
    workload = WORKLOADS[name]
    first, again, other = (workload.build(texts, seed, 2, True) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert [len(part) for part in first] == [workload.quick_requests] * 2


@pytest.mark.parametrize(
    ("name", "responses", "prompt", "response"),
    [
        ("best-of-8", 8, 256, 128),
        ("best-of-8-long", 8, 512, 64),
        ("best-of-8-short", 8, 64, 256),
        ("best-of-64", 64, 512, 32),
        ("pairs", 2, 256, 128),
        ("interactive", 1, 64, 64),
    ],
)
def test_groups_have_the_stated_lengths_and_share_their_prompt(name, responses, prompt, response, texts):
    for request in WORKLOADS[name].build(texts, 0, 1, True)[0]:
        assert request.prompt is not None
        assert len(request.prompt.split()) == prompt
        assert [len(text.split()) for text in request.responses] == [response] * responses


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_text_is_sent_twice(name, texts):
    pairs = [pair for part in WORKLOADS[name].build(texts, 0, 2, True) for request in part for pair in request.pairs]
    assert len(set(pairs)) == len(pairs)
    prompts = [request.prompt for part in WORKLOADS[name].build(texts, 0, 2, True) for request in part]
    assert name == "bulk" or len(set(prompts)) == len(prompts)


def test_mixed_requests_are_the_real_pairs_at_their_own_lengths(texts):
    requests = itertools.islice(WORKLOADS["mixed"].make(texts, random.Random(0)), len(texts.singles))
    assert sorted(request.pairs[0] for request in requests) == sorted(texts.singles)


def test_workloads_that_do_not_fit_the_model_are_left_out():
    assert "best-of-64" not in fitting(512)
    assert {"mixed", "best-of-8", "interactive"} <= set(fitting(512))
    assert fitting(1024) == list(WORKLOADS)


@pytest.mark.parametrize("family", Family)
def test_a_rendered_text_has_the_tokens_of_the_item(family, tmp_path):
    renderer = Renderer(write_pocket_bundle(tmp_path / "pocket", family))
    fitted = renderer.texts([("p" * 500, "r" * 500), ("short", "one")])
    assert fitted.singles[1] == ("short", "one")
    request = WORKLOADS["bulk"].build(fitted, 0, 1, True)[0][0]
    for item in renderer.items(request)[:2]:
        assert len(item.ids) <= renderer.formatter.max_tokens
        assert renderer.count(item.text) == len(item.ids)


def test_cutting_leaves_exactly_so_many_tokens(pocket_bundle):
    renderer = Renderer(pocket_bundle)
    assert renderer.count(renderer.cut("abcdefgh" * 9, 10)) == 10
    assert renderer.cut("abc", 10) == "abc"
