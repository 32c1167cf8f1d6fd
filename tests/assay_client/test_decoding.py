"""Replies that must not become rewards."""

import json
from typing import Any

import pytest

from assay_client.decoding import decode_comparisons, decode_model, decode_ranking, decode_scores, join_scores
from assay_client.encoding import Options
from assay_client.errors import AssayError, BadReplyError, NonFiniteScoreError

SCORE = {"responses": ["r-1", "r-2"]}
COMPARE = {"comparisons": [{"response_a": "r-1", "response_b": "r-2"}]}


def edited(document: dict[str, Any], path: str, value: Any) -> bytes:
    """Copy a document with one place replaced, as JSON."""
    copy = json.loads(json.dumps(document))
    place: Any = copy
    *above, last = path.split(".")
    for name in above:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(copy).encode()


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("scores.1", None, BadReplyError),
        ("scores.1", True, BadReplyError),
        ("scores.1", "1.0", BadReplyError),
        ("scores.1", [1.0], BadReplyError),
        ("scores.1", float("nan"), NonFiniteScoreError),
        ("scores.1", float("-inf"), NonFiniteScoreError),
        ("scores.1", 10**400, NonFiniteScoreError),
        ("scores.1", {"error": {"code": "x", "message": "y"}}, BadReplyError),
        ("scores", [1.0], BadReplyError),
        ("scores", [1.0, 2.0, 3.0], BadReplyError),
        ("scores", None, BadReplyError),
        ("scores", {"0": 1.0, "1": 2.0}, BadReplyError),
        ("details", [], BadReplyError),
        ("details.0.truncated", True, BadReplyError),
        ("details.0.tokens_removed", 4, BadReplyError),
        ("details.0.tokens", -1, BadReplyError),
        ("scale", "centred", BadReplyError),
        ("scale", None, BadReplyError),
        ("model", None, BadReplyError),
        ("model.digest", "", BadReplyError),
        ("usage.tokens", 1.5, BadReplyError),
        ("timing.queue_ms", float("nan"), BadReplyError),
    ],
)
def test_scores_are_believed_only_if_all_is_right(server: Any, path: str, value: Any, error: type[AssayError]) -> None:
    good = server.answer("/v1/score", SCORE)
    assert decode_scores(json.dumps(good).encode(), 2, Options()).scores == (1.0, 2.0)
    with pytest.raises(error) as caught:
        decode_scores(edited(good, path, value), 2, Options())
    assert type(caught.value) is error


ENSEMBLE = {"uncertainty": [0.5, 0.0], "heads": {"member_1": [0.5, 2.0], "member_2": [1.5, 2.0]}}


def test_uncertainty_and_heads_of_an_ensemble(server: Any) -> None:
    plain = server.answer("/v1/score", SCORE)
    scores = decode_scores(json.dumps(plain).encode(), 2, Options())
    assert (scores.uncertainty, scores.heads) == (None, {})
    body = json.dumps(plain | ENSEMBLE).encode()
    scores = decode_scores(body, 2, Options())
    assert scores.uncertainty == (0.5, 0.0)
    assert scores.heads == {"member_1": (0.5, 2.0), "member_2": (1.5, 2.0)}
    joined = join_scores([scores, scores])
    assert joined.uncertainty == (0.5, 0.0, 0.5, 0.0)
    assert joined.heads["member_2"] == (1.5, 2.0, 1.5, 2.0)
    bare = decode_scores(json.dumps(plain).encode(), 2, Options())
    assert join_scores([bare] * 2).uncertainty is None
    with pytest.raises(BadReplyError, match="different heads"):
        join_scores([scores, bare])
    assert hash(scores) == hash(decode_scores(body, 2, Options()))


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("uncertainty", [0.5], BadReplyError),
        ("uncertainty", None, BadReplyError),
        ("uncertainty.0", -0.1, BadReplyError),
        ("uncertainty.0", None, BadReplyError),
        ("uncertainty.0", float("nan"), NonFiniteScoreError),
        ("heads", [], BadReplyError),
        ("heads.member_1", [0.5], BadReplyError),
        ("heads.member_1.0", None, BadReplyError),
        ("heads.member_1.0", float("inf"), NonFiniteScoreError),
    ],
)
def test_uncertainty_and_heads_are_believed_only_if_all_is_right(
    server: Any, path: str, value: Any, error: type[AssayError]
) -> None:
    good = server.answer("/v1/score", SCORE) | ENSEMBLE
    with pytest.raises(error) as caught:
        decode_scores(edited(good, path, value), 2, Options())
    assert type(caught.value) is error


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{", b"null", b"[" * 100_000])
def test_a_reply_that_is_no_object(body: bytes) -> None:
    with pytest.raises(BadReplyError):
        decode_scores(body, 1, Options())


def test_truncation_is_accepted_where_it_was_asked_for(server: Any) -> None:
    body = edited(server.answer("/v1/score", SCORE), "details.0.truncated", True)
    assert decode_scores(body, 2, Options(truncate="prompt_left")).details[0].truncated


def test_a_probability_is_between_0_and_1(server: Any) -> None:
    good = server.answer("/v1/score", SCORE | {"scale": "probability"})
    with pytest.raises(BadReplyError, match="probability"):
        decode_scores(json.dumps(good).encode(), 2, Options(scale="probability"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("comparisons", []),
        ("comparisons.0", 1),
        ("comparisons.0.preferred", "a"),
        ("comparisons.0.preferred", "c"),
        ("comparisons.0.preferred", ["a"]),
        ("comparisons.0.probability", 1.5),
        ("comparisons.0.margin", None),
        ("comparisons.0.score_b", True),
        ("details", [{"tokens": 3, "truncated": False, "tokens_removed": 0}]),
    ],
)
def test_comparisons(server: Any, path: str, value: Any) -> None:
    good = server.answer("/v1/compare", COMPARE)
    assert decode_comparisons(json.dumps(good).encode(), 1, Options())[0].preferred == "b"
    with pytest.raises(BadReplyError):
        decode_comparisons(edited(good, path, value), 1, Options())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("order", [0, 1]),
        ("order", [1, 1]),
        ("order", [1, True]),
        ("order", [1, 2]),
        ("order", [1]),
        ("win_probabilities", [[0.5, 0.5]]),
        ("win_probabilities.0", [0.5]),
        ("win_probabilities.0", None),
        ("win_probabilities.0.1", 1.01),
    ],
)
def test_rankings(server: Any, path: str, value: Any) -> None:
    good = server.answer("/v1/rank", SCORE)
    assert decode_ranking(json.dumps(good).encode(), 2, Options()).order == (1, 0)
    with pytest.raises(BadReplyError):
        decode_ranking(edited(good, path, value), 2, Options())


def test_the_model_reply_may_hold_more_than_is_known() -> None:
    document = {
        "model": {"name": "m", "digest": "d", "more": 1},
        "limits": {"body_bytes": 10, "items_per_request": 2, "queue_items": None, "new": 5},
        "licence": "mit",
    }
    info = decode_model(json.dumps(document).encode())
    assert (info.limits.items_per_request, info.limits.queue_items, info.document["licence"]) == (
        2,
        None,
        "mit",
    )
    for path, value in (("limits", None), ("limits.body_bytes", 0), ("limits.items_per_request", None)):
        with pytest.raises(BadReplyError, match="limits"):
            decode_model(edited(document, path, value))
