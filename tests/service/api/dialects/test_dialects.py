"""What all dialects do alike: one score for one text, overload as their callers bear it, and where they are found."""

import contextlib
import json
import re
import time

import pytest

from service.bundle.text_format import TextFormat
from service.settings import Settings
from tests.service.doubles import ScriptedSession, fails
from tests.service.serving import in_background, serving

PROMPT, RESPONSE = "Say hi.", "Hi!"
WHOLE = f"<|user|>{PROMPT}<|end|><|assistant|>{RESPONSE}<|end|>"
CHAT = [{"role": "user", "content": PROMPT}]
ANSWERED = [*CHAT, {"role": "assistant", "content": RESPONSE}]
SENTENCES = {"name": "sentences", "shape": [1, 1], "datatype": "BYTES", "data": [WHOLE]}
OUTPUT = {"output": [{"type": "message", "content": [{"type": "output_text", "text": RESPONSE}]}]}

FORMS = [
    ("/openrlhf/get_reward", {"query": [WHOLE]}, lambda reply: reply["rewards"][0]),
    ("/openrlhf/get_reward", {"query": [WHOLE.removesuffix("<|end|>")]}, lambda reply: reply["rewards"][0]),
    ("/vllm/classify", {"input": WHOLE, "use_activation": False}, lambda reply: reply["data"][-1]["probs"][-1]),
    ("/vllm/classify", {"input": WHOLE + "\n"}, lambda reply: reply["data"][-1]["probs"][-1]),
    (
        "/vllm/classify",
        {"messages": ANSWERED},
        lambda reply: reply["data"][0]["probs"][0],
    ),
    ("/vllm/pooling", {"input": [WHOLE]}, lambda reply: reply["data"][0]["data"][0]),
    ("/vllm/score", {"text_1": PROMPT, "text_2": RESPONSE}, lambda reply: reply["data"][0]["score"]),
    (
        "/vllm/v2/rerank",
        {"query": PROMPT, "documents": [RESPONSE]},
        lambda reply: reply["results"][0]["relevance_score"],
    ),
    ("/sglang/classify", {"text": WHOLE}, lambda reply: reply["embedding"][0]),
    ("/sglang/v1/embeddings", {"input": WHOLE}, lambda reply: reply["data"][-1]["embedding"][-1]),
    ("/sglang/v1/score", {"query": PROMPT, "items": RESPONSE}, lambda reply: reply["scores"][0][0]),
    ("/tei/predict", {"inputs": WHOLE}, lambda reply: reply[0]["score"]),
    ("/tei/predict", {"inputs": [[PROMPT, RESPONSE]]}, lambda reply: reply[0][0]["score"]),
    ("/tei/rerank", {"query": PROMPT, "texts": [RESPONSE]}, lambda reply: reply[0]["score"]),
    ("/slime/reward", {"prompt": PROMPT, "response": RESPONSE}, lambda reply: reply),
    ("/slime/reward", {"prompt": CHAT, "response": RESPONSE}, lambda reply: reply),
    ("/llamafactory/v1/score/evaluation", {"model": "model", "messages": [WHOLE]}, lambda reply: reply["scores"][0]),
    ("/swift/v1/chat/completions", {"messages": ANSWERED}, lambda reply: reply["choices"][0]["message"]["content"]),
    ("/kserve/v2/models/pocket/infer", {"inputs": [SENTENCES]}, lambda reply: reply["outputs"][0]["data"][0]),
    (
        "/nemogym/verify",
        {"responses_create_params": {"input": CHAT}, "response": OUTPUT},
        lambda reply: reply["reward"],
    ),
    ("/nemogym/compare", {"conversation_history": CHAT, "response_objs": [OUTPUT]}, lambda reply: reply["rewards"][0]),
]


@pytest.fixture(scope="module")
def plain(pocket_bundle):
    with serving(pocket_bundle) as served:
        yield served


@pytest.mark.parametrize(("path", "body", "score"), FORMS)
def test_every_form_of_a_text_has_the_native_score(plain, path, body, score):
    native = plain.post("/v1/score", {"prompt": PROMPT, "responses": [RESPONSE]}).json["scores"][0]
    reply = plain.post(path, body)
    assert reply.status == 200, reply.content
    assert score(reply.json) == pytest.approx(native, abs=1e-6)


@pytest.mark.parametrize("path", sorted({path for path, _, _ in FORMS}))
@pytest.mark.parametrize("body", ["", "[", "[]", "null", '"text"', '{"a": NaN}', "{}", '{"\\ud800": 1}'])
def test_what_is_no_request_is_a_4xx_in_the_dialects_own_shape(plain, path, body):
    dialect = path.split("/")[1]
    reply = plain.post(path, body)
    assert 400 <= reply.status < 500
    shape = {
        "vllm": lambda error: set(error["error"]) == {"message", "type", "param", "code"},
        "sglang": lambda error: error["object"] == "error",
        "tei": lambda error: set(error) == {"error", "error_type"},
        "swift": lambda error: set(error) == {"message", "object"},
        "kserve": lambda error: set(error) == {"error"},
    }.get(dialect, lambda error: set(error) == {"error", "code"})
    assert shape(reply.json), reply.content


@pytest.fixture
def session():
    return ScriptedSession()


@pytest.fixture
def served(pocket_bundle, session):
    with serving(pocket_bundle, session, queue_items=2, max_items=2, max_batch_tokens=64) as served:
        session.pass_warm_up()
        yield served
        session.let_go()


@contextlib.contextmanager
def filled(served, session):
    """A queue of two that is full: one item runs, one is planned behind it, two wait. Gives the replies to them."""
    session.hold()
    waits = [in_background(served.score, "a")]
    session.wait_for_batch()
    waits.append(in_background(served.score, "b"))
    served.until("assay_inflight_samples", 2)
    waits.append(in_background(served.score, "c", "d"))
    served.until("assay_queue_samples", 2)
    replies = []
    yield replies
    session.let_go()
    replies += [wait() for wait in waits]


@pytest.fixture
def full(served, session):
    """A server whose queue is full."""
    with filled(served, session) as replies:
        yield served
    assert [reply.status for reply in replies] == [200, 200, 200]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/vllm/classify", {"input": WHOLE}, 503),
        ("/sglang/classify", {"text": WHOLE}, 503),
        ("/tei/predict", {"inputs": WHOLE}, 429),
    ],
)
def test_a_full_queue_is_what_the_caller_comes_back_from(full, path, body, status):
    reply = full.post(path, body)
    assert reply.status == status
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openrlhf/get_reward", {"query": [WHOLE]}),
        ("/slime/reward", {"prompt": PROMPT, "response": RESPONSE}),
        ("/llamafactory/v1/score/evaluation", {"messages": [WHOLE]}),
    ],
)
def test_callers_that_take_a_refusal_for_the_end_are_held(full, session, path, body):
    held = in_background(full.post, path, body)
    full.until("assay_http_requests_in_flight", 4)
    session.let_go()
    assert held().status == 200


def test_a_batch_that_fails_is_an_error_of_the_dialect(served, session):
    session.then(fails(RuntimeError("broke")))
    reply = served.post("/vllm/classify", {"input": WHOLE})
    assert (reply.status, reply.json["error"]["type"]) == (503, "ServiceUnavailableError")
    session.let_go()


PROBES = [
    *("/vllm/health", "/sglang/health", "/tei/health", "/tei/info", "/swift/v1/models", "/swift/health", "/swift/ping"),
    *("/kserve/v2", "/kserve/v2/health/live", "/kserve/v2/health/ready"),
    *("/kserve/v2/models/pocket", "/kserve/v2/models/pocket/ready"),
]


@pytest.mark.parametrize("path", PROBES)
def test_what_callers_ask_before_they_begin(plain, path):
    assert plain.get(path).status == 200


def test_a_dialect_at_the_root(pocket_bundle):
    with serving(pocket_bundle, root_dialect="vllm") as served:
        assert served.post("/classify", {"input": WHOLE}).status == 200
        assert served.post("/vllm/classify", {"input": WHOLE}).status == 200
        native = served.post("/v1/score", {"prompt": PROMPT, "responses": [RESPONSE]})
        assert "scores" in native.json  # a path of the native API stays what it is
        bad = served.post("/classify", {"input": []})
        assert (bad.status, bad.json["error"]["type"]) == (400, "BadRequestError")


def test_a_dialect_that_is_switched_off(pocket_bundle):
    with serving(pocket_bundle, dialects="vllm, tei") as served:
        assert served.post("/vllm/classify", {"input": WHOLE}).status == 200
        assert served.post("/openrlhf/get_reward", {"query": [WHOLE]}).status == 404
    with serving(pocket_bundle, dialects="") as served:
        assert served.post("/vllm/classify", {"input": WHOLE}).status == 404


@pytest.mark.parametrize(("aliases", "status"), [("", 404), ("a,b", 404), ("a,my/model", 200), ("*", 200)])
def test_names_of_the_model(pocket_bundle, aliases, status):
    with serving(pocket_bundle, model_aliases=aliases) as served:
        reply = served.post("/vllm/classify", {"model": "my/model", "input": WHOLE})
        assert reply.status == status
        if status == 200:
            assert reply.json["model"] == "my/model"


def test_a_key_is_needed_here_too(pocket_bundle):
    with serving(pocket_bundle, api_keys="secret") as served:
        assert served.post("/vllm/classify", {"input": WHOLE}).status == 401
        headers = {"Authorization": "Bearer secret"}
        assert served.post("/vllm/classify", {"input": WHOLE}, headers).status == 200


class TestAModelThatReadsPromptAndResponseApart:
    @pytest.fixture(scope="class")
    def apart(self, pocket_encoder_bundle):
        around: TextFormat = pocket_encoder_bundle.manifest.text_format
        assert around.middle
        with serving(pocket_encoder_bundle) as served:
            yield served

    def test_one_text_is_refused(self, apart):
        reply = apart.post("/vllm/classify", {"input": "Say hi. Hi!"})
        assert reply.status == 400
        assert "send prompt and response apart" in reply.json["error"]["message"]

    def test_a_text_that_spells_what_is_between(self, apart):
        native = apart.post("/v1/score", {"prompt": PROMPT, "responses": [RESPONSE]}).json["scores"][0]
        for text in (f"[CLS]{PROMPT}[SEP]{RESPONSE}[SEP]", f"{PROMPT}[SEP]{RESPONSE}"):
            found = apart.post("/vllm/classify", {"input": text}).json["data"][0]["probs"][0]
            assert found == pytest.approx(native, abs=1e-6)

    def test_openrlhf_is_told(self, apart):
        reply = apart.post("/openrlhf/get_reward", {"query": [PROMPT + RESPONSE], "prompts": [PROMPT]})
        assert reply.status == 422
        assert "query.0: this model reads something between" in reply.json["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/kserve/v2/models/pocket/infer", {"inputs": [{**SENTENCES, "data": [None] * 100_000}]}),
        ("/vllm/classify", {"input": [None] * 100_000}),
        ("/sglang/classify", {"text": [None] * 100_000}),
        ("/tei/predict", {"inputs": [None] * 100_000}),
        ("/swift/v1/chat/completions", {"messages": [{}] * 100_000}),
        ("/llamafactory/v1/score/evaluation", {"messages": [None] * 100_000}),
    ],
)
def test_a_hundred_thousand_faults_are_a_few(plain, path, body):
    reply = plain.post(path, body)
    assert 400 <= reply.status < 500
    more = re.search(rb"and (\d+) more", reply.content)
    assert more is None or int(more[1]) < 10


def test_tritons_client_names_no_content_type(plain):
    body = json.dumps({"inputs": [SENTENCES]})
    assert plain.request("POST", "/kserve/v2/models/pocket/infer", body).status == 200
    assert plain.request("POST", "/vllm/classify", json.dumps({"input": WHOLE})).status == 415
    assert plain.request("POST", "/kserve/v2/models/pocket/infer", body, {"Content-Type": "text/plain"}).status == 400


def test_an_empty_response_is_scored(plain):
    native = plain.post("/v1/score", {"prompt": PROMPT, "responses": [""], "allow_empty": True}).json["scores"][0]
    assert plain.post("/slime/reward", {"prompt": PROMPT, "response": ""}).json == pytest.approx(native, abs=1e-6)


def test_the_sample_at_fault_is_named(plain):
    reply = plain.post("/openrlhf/get_reward", {"query": [WHOLE, WHOLE + "x" * 100]})
    assert reply.status == 422
    assert reply.json["error"].startswith("query.1: ")
    assert "truncate" not in reply.json["error"]


def test_a_hold_ends_with_the_time_of_the_request(pocket_bundle, session):
    limits = {"queue_items": 2, "max_items": 2, "max_timeout_ms": 3000, "default_timeout_ms": 3000}
    with serving(pocket_bundle, session, max_batch_tokens=64, **limits) as served:
        session.pass_warm_up()
        with filled(served, session):
            began = time.monotonic()
            reply = served.post("/llamafactory/v1/score/evaluation", {"messages": [WHOLE]})
            assert reply.status in (503, 504)
            assert time.monotonic() - began < 10


def test_the_root_must_be_one_of_the_dialects(pocket_bundle):
    with pytest.raises(ValueError, match="root_dialect is vllm, which is not among the dialects"):
        Settings(bundle=pocket_bundle.folder, dialects="tei", root_dialect="vllm")
