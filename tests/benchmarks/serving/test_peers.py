import json
from typing import Any

import pytest

from benchmarks.serving.models import folders
from benchmarks.serving.peers.assay import TIMEOUT_MS, Assay
from benchmarks.serving.peers.base import ReplyError
from benchmarks.serving.peers.infinity import Infinity, bare
from benchmarks.serving.peers.install_requirements import wanted
from benchmarks.serving.peers.registry import PEERS, peers_for
from benchmarks.serving.peers.scripts import OpenRlhfStyle, PlainScript
from benchmarks.serving.peers.vllm import Vllm
from benchmarks.serving.rendering import Item

SHARED = [Item("Why?", "So.", (1, 2, 3), "<u>Why?<a>So.<e>"), Item("Why?", "No.", (1, 2, 4), "<u>Why?<a>No.<e>")]
APART = [SHARED[0], Item("How?", "Thus.", (1, 5, 6), "<u>How?<a>Thus.<e>")]


def sent(peer: Any, items: list[Item]) -> tuple[str, Any]:
    (call,) = peer.calls(items)
    return call.path, json.loads(call.body)


def test_assay_sends_a_shared_prompt_once():
    path, body = sent(Assay(), SHARED)
    assert path == "/v1/score"
    assert body == {"prompt": "Why?", "responses": ["So.", "No."], "timeout_ms": TIMEOUT_MS}


def test_assay_sends_pairs_where_prompts_differ():
    _, body = sent(Assay(), APART)
    assert body["pairs"] == [{"prompt": "Why?", "response": "So."}, {"prompt": "How?", "response": "Thus."}]


def test_assay_reads_its_reply():
    reply = {"scores": [0.5, -1], "model": {"name": "m", "digest": "d"}, "usage": {"tokens": 6}}
    assert Assay().scores([reply]) == [0.5, -1.0]


def test_assay_is_started_with_its_provider_and_precision(monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.serving.peers.assay.environment", lambda name, steps: tmp_path / name)
    peer = Assay("openvino", "bf16", {"max-batch-tokens": "2048"})
    command = peer.command(folders("minilm"), 4321)
    assert command[0] == str(tmp_path / "assay/bin/python")
    assert {"--port=4321", "--provider=openvino", "--precision=bf16", "--max-batch-tokens=2048"} <= set(command)
    assert not any(flag.startswith("--precision") for flag in Assay().command(folders("minilm"), 1))
    assert peer.label == "assay openvino bf16"


def test_vllm_gets_token_ids_and_is_asked_for_raw_scores():
    path, body = sent(Vllm(), SHARED)
    assert path == "/classify"
    assert body["input"] == [[1, 2, 3], [1, 2, 4]]
    assert body["use_activation"] is False


def vllm_reply(*indices: int) -> dict[str, Any]:
    data = [{"index": n, "label": "LABEL_0", "probs": [0.25 * n - 1], "num_classes": 1} for n in indices]
    return {"id": "classify-1", "object": "list", "created": 1, "model": "race", "data": data, "usage": {}}


def test_vllm_replies():
    assert Vllm().scores([vllm_reply(0, 1)]) == [-1.0, -0.75]
    with pytest.raises(ReplyError, match="order"):
        Vllm().scores([vllm_reply(1, 0)])


def test_infinity_gets_texts_without_the_tokens_that_its_tokenizer_adds():
    path, body = sent(Infinity("torch"), [Item("a", "b", (1,), "[CLS]a[SEP]b[SEP]")])
    assert path == "/classify"
    assert body["input"] == ["a[SEP]b"]
    assert body["raw_scores"] is True
    assert bare("<u>a[SEP]") == "<u>a[SEP]"


def test_infinity_replies_are_sorted_by_score():
    reply = {
        "object": "classify",
        "data": [
            [{"score": 0.5, "label": "LABEL_1"}, {"score": -0.5, "label": "LABEL_0"}],
            [{"score": 0.75, "label": "LABEL_0"}, {"score": 0.0, "label": "LABEL_1"}],
        ],
        "model": "race",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    assert Infinity("optimum").scores([reply]) == [-0.5, 0.75]


def test_infinity_is_compared_only_where_it_computes_the_same():
    assert Infinity("torch").same_function(folders("smollm2"))
    assert not Infinity("torch").same_function(folders("minilm"))


def test_openrlhf_style():
    path, body = sent(OpenRlhfStyle(), SHARED)
    assert path == "/get_reward"
    assert body["query"] == [item.text for item in SHARED]
    reply = {"rewards": [1.0, 2.0], "scores": [1.0, 2.0], "extra_logs": {"dummy_scores": [1.0, 2.0]}}
    assert OpenRlhfStyle().scores([reply]) == [1.0, 2.0]


def test_plain_script():
    assert sent(PlainScript(), SHARED) == ("/score", {"texts": [item.text for item in SHARED]})
    assert PlainScript().scores([{"scores": [1, 2]}]) == [1.0, 2.0]


def test_assay_comes_first_and_labels_differ():
    peers = peers_for(list(PEERS), Assay())
    assert peers[0].name == "assay"
    assert len({peer.label for peer in peers}) == len(PEERS) + 1


def test_requirements_that_do_not_apply_or_are_left_out():
    lines = [
        "torch==2.13.0",
        "fastapi[standard]>=0.1",
        'winonly; sys_platform == "win32"',
        'more; extra == "audio"',
        "torchaudio",
    ]
    assert wanted(lines, {"torch", "torchaudio"}) == ["fastapi[standard]>=0.1"]
