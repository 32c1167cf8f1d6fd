"""The native API: what each route gives, and that it is the right number."""

import itertools
import json
import math

import numpy as np
import pytest

from service.api.v1 import _preferences
from service.bundle.calibration import Calibration, Scale
from service.engine.gate import Gate
from tests.pocket import NAN_TEXT, pocket_reward, write_pocket_bundle
from tests.service.doubles import ScriptedSession
from tests.service.serving import serving

RESPONSES = ["one", "two", "three", "two"]


@pytest.fixture
def right(pocket_bundle):
    """The reward of a prompt with a response, computed from its tokens alone."""

    def right(prompt, response: str) -> float:
        (item,) = pocket_bundle.formatter.encode(prompt, [response])
        return pocket_reward(item.ids, pocket_bundle.manifest.family)

    return right


def test_both_forms_give_the_same_scores(served, right):
    by_prompt = served.post("/v1/score", {"prompt": "p", "responses": RESPONSES}).json
    by_pair = served.post("/v1/score", {"pairs": [{"prompt": "p", "response": text} for text in RESPONSES]}).json
    assert by_prompt["scores"] == by_pair["scores"]
    assert by_prompt["scores"] == pytest.approx([right("p", text) for text in RESPONSES], abs=1e-5)
    assert by_prompt["usage"] == by_pair["usage"]
    assert by_prompt["scale"] == "raw"


def test_a_text_is_one_user_message(served):
    chat = [{"role": "user", "content": "p"}]
    messages = served.post("/v1/score", {"prompt": chat, "responses": RESPONSES}).json
    assert messages["scores"] == served.score(*RESPONSES).json["scores"]


def test_the_reply_names_the_model_and_what_it_took(served, pocket_bundle):
    reply = served.score("one", "two")
    assert reply.headers["x-assay-model-digest"] == pocket_bundle.digest
    assert reply.json["model"] == {"name": "pocket", "digest": pocket_bundle.digest}
    assert reply.json["details"] == [{"tokens": 8, "truncated": False, "tokens_removed": 0}] * 2
    assert reply.json["usage"] == {"items": 2, "tokens": 16, "computed_tokens": 8 + 4}
    timing = reply.json["timing"]
    assert set(timing) == {"total_ms", "tokenize_ms", "queue_ms", "infer_ms"}
    assert all(value >= 0 for value in timing.values())
    assert timing["total_ms"] >= max(timing["tokenize_ms"], timing["infer_ms"])


@pytest.mark.parametrize("scale", list(Scale))
def test_scales(served, pocket_bundle, right, scale):
    reply = served.score(*RESPONSES, scale=scale).json
    assert reply["scale"] == scale
    # centre 0.25, scale 0.5, temperature 0.8: see the pocket bundle
    by_hand = {
        Scale.RAW: lambda raw: raw,
        Scale.CENTRED: lambda raw: raw - 0.25,
        Scale.STANDARDISED: lambda raw: (raw - 0.25) / 0.5,
        Scale.PROBABILITY: lambda raw: 1 / (1 + math.exp(-(raw - 0.25) / 0.8)),
    }[scale]
    assert reply["scores"] == pytest.approx([by_hand(right("p", text)) for text in RESPONSES], abs=1e-5)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "ensemble"
    return write_pocket_bundle(folder, heads=("reward", "uncertainty", "member_1", "member_2"))


@pytest.mark.parametrize("scale", list(Scale))
def test_an_ensemble_says_how_far_it_disagrees(ensemble, right, scale):
    """Every head of the pocket bundle gives half of what the one before does."""
    with serving(ensemble) as served:
        reply = served.score(*RESPONSES, scale=scale).json
        raw = [right("p", text) for text in RESPONSES]
        slope = {
            Scale.RAW: lambda raw: 1,
            Scale.CENTRED: lambda raw: 1,
            Scale.STANDARDISED: lambda raw: 1 / 0.5,
            Scale.PROBABILITY: lambda raw: 1 / (2 + 2 * math.cosh((raw - 0.25) / 0.8)) / 0.8,
        }[scale]
        assert reply["uncertainty"] == pytest.approx([slope(value) * value / 2 for value in raw], abs=1e-5)
        assert reply["heads"] == {
            "member_1": pytest.approx([value / 4 for value in raw], abs=1e-5),
            "member_2": pytest.approx([value / 8 for value in raw], abs=1e-5),
        }
        assert served.get("/v1/model").json["heads"] == ["reward", "uncertainty", "member_1", "member_2"]
        ranked = served.post("/v1/rank", {"prompt": "p", "responses": RESPONSES}).json
        assert ranked["scores"] == pytest.approx(raw, abs=1e-5)


def test_aspects_are_served_by_name(tmp_path, right):
    with serving(write_pocket_bundle(tmp_path / "aspects", heads=("reward", "helpful"))) as served:
        reply = served.score(*RESPONSES).json
        assert "uncertainty" not in reply
        assert reply["heads"] == {"helpful": pytest.approx([right("p", text) / 2 for text in RESPONSES], abs=1e-5)}


def test_a_model_with_one_head_has_neither(served):
    assert {"uncertainty", "heads"}.isdisjoint(served.score(*RESPONSES).json)


def test_an_item_without_a_score_has_no_uncertainty(ensemble, right):
    class OneHeadFails(ScriptedSession):
        """The reward itself is a number."""

        def run(self, layout):
            rewards = np.repeat(super().run(layout), 4, axis=1)
            rewards[np.isclose(rewards[:, 0], right("p", "b"), atol=1e-5), 3] = np.nan
            return rewards

    session = OneHeadFails()
    with serving(ensemble, session) as served:
        session.pass_warm_up()
        reply = served.score("a", "b", on_error="item").json
        assert reply["scores"][1]["error"]["code"] == "nonfinite_score"
        assert "score on the head 'member_2' for this item is nan" in reply["scores"][1]["error"]["message"]
        assert [value is None for value in reply["uncertainty"]] == [False, True]
        assert [value is None for value in reply["heads"]["member_1"]] == [False, True]
        assert served.score("a", "b").status == 500


def test_compare(served, right):
    rows = [("p", "one", "two"), ("p", "two", "one"), ("q", "same", "same")]
    body = {"comparisons": [{"prompt": p, "response_a": a, "response_b": b} for p, a, b in rows]}
    reply = served.post("/v1/compare", body).json
    assert len(reply["details"]) == 6
    for (prompt, text_a, text_b), row in zip(rows, reply["comparisons"], strict=True):
        a, b = right(prompt, text_a), right(prompt, text_b)
        assert (row["score_a"], row["score_b"]) == pytest.approx((a, b), abs=1e-5)
        assert row["margin"] == row["score_a"] - row["score_b"]
        assert row["probability"] == pytest.approx(1 / (1 + math.exp(-(a - b) / 0.8)), abs=1e-5)
        assert row["preferred"] == ("a" if row["margin"] > 0 else "b" if row["margin"] < 0 else "tie")
    first, second, same = reply["comparisons"]
    assert first["probability"] + second["probability"] == pytest.approx(1)
    assert (same["preferred"], same["probability"], same["margin"]) == ("tie", 0.5, 0)


def test_rank(served, right):
    reply = served.post("/v1/rank", {"prompt": "p", "responses": RESPONSES}).json
    raw = [right("p", text) for text in RESPONSES]
    assert reply["scores"] == pytest.approx(raw, abs=1e-5)
    assert sorted(reply["order"]) == [0, 1, 2, 3]
    ordered = [reply["scores"][place] for place in reply["order"]]
    assert ordered == sorted(ordered, reverse=True)
    assert reply["order"].index(1) < reply["order"].index(3)  # equal scores keep their order
    for i, j in itertools.product(range(4), repeat=2):
        expected = 1 / (1 + math.exp(-(raw[i] - raw[j]) / 0.8))
        assert reply["win_probabilities"][i][j] == pytest.approx(expected, abs=1e-5)


def test_what_was_cut_is_reported(served):
    reply = served.post("/v1/score", {"prompt": "p" * 60, "responses": ["a", "r" * 20], "truncate": "prompt_left"}).json
    assert reply["details"] == [
        {"tokens": 64, "truncated": True, "tokens_removed": 1},
        {"tokens": 64, "truncated": True, "tokens_removed": 20},
    ]


def test_empty_texts_that_are_meant(served, right):
    assert served.score("", allow_empty=True).json["scores"] == pytest.approx([right("p", "")], abs=1e-5)


def test_a_pinned_model(served, pocket_bundle):
    assert served.score("a", model_digest=pocket_bundle.digest).status == 200


def test_model(served, pocket_bundle):
    reply = served.get("/v1/model").json
    assert reply["model"] == {"name": "pocket", "digest": pocket_bundle.digest}
    assert reply["limits"] == {
        "body_bytes": 2**20,
        "items_per_request": 50,
        "responses_per_ranking": 50,
        "tokens_per_item": 64,
        "queue_items": 8192,
        "queue_tokens": 2**21,
    }
    assert (reply["family"], reply["max_tokens"], reply["precision"]) == ("causal", 64, "fp32")
    assert reply["provider"] == "CPUExecutionProvider"
    assert reply["calibration"]["temperature"] == 0.8
    assert reply["evaluation"] == {"accuracy": 0.75, "pairs": 400}


@pytest.mark.parametrize(
    ("precision", "gate", "said"),
    [
        ("fp32", None, "not_needed"),
        ("bf16", Gate("bf16", 20, 0, 1, 18, 0.0, 0.999, 0.01, 0.02), "passed"),
        ("bf16", None, "not_checked"),
    ],
)
def test_whether_the_precision_was_checked(pocket_bundle, precision, gate, said):
    session = ScriptedSession()
    session.precision = precision
    with serving(pocket_bundle, session) as served:
        served.context.gate = gate
        reply = served.get("/v1/model").json
    assert (reply["precision"], reply["precision_check"]) == (precision, said)
    assert (reply["precision_gate"] is None) == (gate is None)


def test_an_encoder(pocket_encoder_bundle):
    with serving(pocket_encoder_bundle) as served:
        reply = served.score(*RESPONSES).json
        formatter, family = pocket_encoder_bundle.formatter, pocket_encoder_bundle.manifest.family
        right = [pocket_reward(item.ids, family) for item in formatter.encode("p", RESPONSES)]
        assert reply["scores"] == pytest.approx(right, abs=1e-5)
        lengths = [3 + 1 + len(text) for text in RESPONSES]
        assert reply["usage"]["tokens"] == sum(lengths)
        assert reply["usage"]["computed_tokens"] == sum(lengths) - lengths[3]  # only the twin is shared


def test_no_reply_holds_a_number_that_json_has_not(pocket_bundle):
    with serving(pocket_bundle) as served:
        # The schema refuses NUL, so the model is asked for NaN behind the API's back.
        encode = pocket_bundle.formatter.encode_parts
        served.context.scorer.bundle.formatter.encode_parts = lambda prompt, responses, sides: encode(
            prompt, [text.replace("nan", NAN_TEXT) for text in responses], sides
        )
        try:
            reply = served.score("a", "nan")
            assert (reply.status, reply.error["code"], reply.error["field"]) == (500, "nonfinite_score", "responses.1")
            reply = served.score("a", "nan", on_error="item")
            assert reply.status == 200
            first, second = reply.json["scores"]
            assert isinstance(first, float)
            assert second["error"]["code"] == "nonfinite_score"
            assert b"null" not in reply.content
            assert len(reply.json["details"]) == 2
            body = {"prompt": "p", "responses": ["a", "nan"]}
            assert served.post("/v1/rank", body).status == 500
            assert served.rejected() == {}  # the caller did nothing wrong
            assert served.metric("assay_scores_nonfinite_total") == 3
        finally:
            del served.context.scorer.bundle.formatter.encode_parts


def test_the_example_of_the_documentation_works(served):
    document = served.get("/openapi.json").json
    (example,) = document["components"]["schemas"]["ScoreRequest"]["examples"]
    reply = served.post("/v1/score", json.dumps(example | {"truncate": "prompt_left"}))
    assert reply.status in (200, 422)  # its texts are longer than the pocket model takes
    assert reply.status == 200 or reply.error["code"] == "too_many_tokens"


@pytest.mark.parametrize("raw", [[0.0], [1.5, -2.0, 1.5], [-3e4, 3e4, 0.0], [1e-9, 0.0]])
@pytest.mark.parametrize("temperature", [0.01, 0.8, 50.0])
def test_all_pairs_at_once_are_each_pair(raw, temperature):
    calibration = Calibration(centre=0, scale=1, temperature=temperature, quantiles={})
    expected = [[calibration.preference(a, b) for b in raw] for a in raw]
    for row, right in zip(_preferences(raw, temperature), expected, strict=True):
        assert row == pytest.approx(right, rel=1e-12, abs=1e-300)


def test_ranking_as_many_as_a_request_may_hold(pocket_bundle):
    def ranking(count: int) -> dict:
        return {"prompt": "p", "responses": [f"{n}" for n in range(count)]}

    with serving(pocket_bundle) as served:
        reply = served.post("/v1/rank", ranking(256)).json
        assert len(reply["win_probabilities"]) == len(reply["win_probabilities"][0]) == 256
        refused = served.post("/v1/rank", ranking(257))
        assert (refused.status, refused.error["code"], refused.error["field"]) == (413, "too_many_items", "responses")
        assert "257 items, more than the 256 of one request; send fewer" in refused.error["message"]
        assert served.post("/v1/score", ranking(257)).status == 200
        assert served.get("/v1/model").json["limits"]["responses_per_ranking"] == 256
