"""Bodies are exact JSON, and wrong input is named before it is sent."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_client.encoding import Options, Request, compare_request, responses_request, score_pairs_request
from assay_client.errors import InvalidRequestError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT, st.lists(TEXT, min_size=1, max_size=8), st.data())
def test_a_body_holds_the_texts_of_its_span(prompt: str, responses: list[str], data: st.DataObject) -> None:
    request = responses_request("/v1/score", prompt, responses, Options(scale="centred"))
    start = data.draw(st.integers(0, len(responses) - 1))
    stop = data.draw(st.integers(start + 1, len(responses)))
    body = request.body(range(start, stop), 1500)
    expected = {"prompt": prompt, "responses": responses[start:stop], "scale": "centred", "timeout_ms": 1500}
    assert json.loads(body) == expected
    assert len(body) <= request.fixed_bytes + sum(len(item) + 1 for item in request.items[start:stop])


def test_pairs_messages_and_options() -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hé"}]
    options = Options(truncate="prompt_left", allow_empty=True, model_digest="d")
    request = score_pairs_request([(chat, "yes"), ("plain", "")], options)
    assert json.loads(request.body(range(2), 7)) == {
        "pairs": [{"prompt": chat, "response": "yes"}, {"prompt": "plain", "response": ""}],
        "truncate": "prompt_left",
        "allow_empty": True,
        "model_digest": "d",
        "timeout_ms": 7,
    }
    request = compare_request([("p", "x", "y")], Options())
    expected = {"comparisons": [{"prompt": "p", "response_a": "x", "response_b": "y"}], "timeout_ms": 7}
    assert json.loads(request.body(range(1), 7)) == expected


def responses(prompt: Any, texts: Any) -> Request:
    return responses_request("/v1/score", prompt, texts, Options())


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: responses("p", []), "responses"),
        (lambda: responses("p", "one string"), "responses"),
        (lambda: responses("p", ["a", None]), "responses.1"),
        (lambda: responses("p", ["\ud83d"]), "responses.0"),
        (lambda: responses("\ud83d", ["a"]), "prompt"),
        (lambda: responses(None, ["a"]), "prompt"),
        (lambda: responses(b"bytes", ["a"]), "prompt"),
        (lambda: responses([], ["a"]), "prompt"),
        (lambda: responses([{"role": "user"}], ["a"]), "prompt.0"),
        (lambda: responses([{"role": "user", "content": {1}}], ["a"]), "prompt"),
        (lambda: score_pairs_request([("p", "a"), ("p",)], Options()), "pairs.1"),  # type: ignore[list-item]
        (lambda: score_pairs_request([{"prompt": 1, "response": 2}], Options()), "pairs.0"),  # type: ignore[list-item]
        (lambda: score_pairs_request(["ab"], Options()), "pairs.0"),  # type: ignore[list-item]
        (lambda: score_pairs_request([("p", 3.0)], Options()), "pairs.0.response"),  # type: ignore[list-item]
        (lambda: compare_request([("p", "a", None)], Options()), "comparisons.0.response_b"),  # type: ignore[list-item]
    ],
)
def test_wrong_input_is_named(make: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make()
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)
