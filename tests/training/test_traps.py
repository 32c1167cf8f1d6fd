"""The traps that reward models are known to fall into, one test each."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.layout import Family, IntArray, plan_layout
from service.bundle.text_format import EncodedItem, Formatter, Truncation
from tests.pocket import SPECIAL_IDS
from tests.training.tiny import CHAT, causal_tokenizer, save_backbone, tiny_checkpoint, toy_records, with_bos
from training.backbone import load_backbone
from training.checkpoint import Checkpoint
from training.encoding import Example, encode_records
from training.examples import Collator, ElementDataset, layout_tensors
from training.heads import Heads
from training.judgement_weights import judgement_weights
from training.losses import bradley_terry, mean_by_element
from training.model import RewardModel

END = SPECIAL_IDS["<|end|>"]
CLS = SPECIAL_IDS["[CLS]"]


def formatter_of(folder: Path, max_tokens: int = 64) -> Formatter:
    backbone = load_backbone(str(folder))
    return Formatter(backbone.text_format, backbone.template, backbone.tokenizer, max_tokens)


def ids(formatter: Formatter, prompt: str, response: str) -> list[int]:
    (item,) = formatter.encode(prompt, [response], (Truncation.PROMPT_LEFT, Truncation.RESPONSE_RIGHT))
    assert isinstance(item, EncodedItem)
    return item.ids.tolist()


def score(model: RewardModel, items: list[IntArray]) -> torch.Tensor:
    with torch.no_grad():
        rewards: torch.Tensor = model(**layout_tensors(plan_layout(items, model.family, block_queries=16)))
    return rewards[:, 0]


@pytest.fixture(scope="module", params=list(Family))
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return tiny_checkpoint(request.param)


def test_pad_equals_eos(tmp_path: Path) -> None:
    """Where padding is EOS, pooling by padding id would skip the EOS at the end and read the token before."""
    tokenizer = causal_tokenizer(pad_token="<|end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == END
    folder = save_backbone(tmp_path, "llama", tokenizer, pad_token_id=END)
    formatter = formatter_of(folder)
    item = np.array(ids(formatter, "question", "answer"))
    assert item[-1] == END
    assert (item[:-1] == END).sum() == 1  # the end of the question
    model = RewardModel(load_backbone(str(folder)).model, Family.CAUSAL, tiny_checkpoint(Family.CAUSAL).model.pooling)
    changed = item.copy()
    changed[-1] = SPECIAL_IDS["[SEP]"]
    with_end, without_end = score(model.eval(), [item, changed])
    assert abs(float(with_end - without_end)) > 1e-5  # the last token is read
    alone, in_company = score(model, [item])[0], score(model, [item, item[:5], np.repeat(item, 3)])[0]
    assert float(alone) == pytest.approx(float(in_company), abs=1e-6)


@pytest.mark.parametrize("template_writes_bos", [False, True])
def test_double_bos(tmp_path: Path, template_writes_bos: bool) -> None:
    """A template that writes BOS, and a tokenizer that adds it: one BOS all the same."""
    template = ("{{ bos_token }}" if template_writes_bos else "") + CHAT
    tokenizer = with_bos(causal_tokenizer(template, bos_token="[CLS]"))
    formatter = formatter_of(save_backbone(tmp_path, "llama", tokenizer))
    assert formatter.text_format.begin == (() if template_writes_bos else (CLS,))
    sequence = ids(formatter, "question", "answer")
    assert sequence[0] == CLS
    assert sequence.count(CLS) == 1
    assert sequence.count(END) == 2


def test_no_bos_where_neither_writes_one(tmp_path: Path) -> None:
    formatter = formatter_of(save_backbone(tmp_path, "llama"))
    assert formatter.text_format.begin == ()
    assert ids(formatter, "q", "a") == [
        SPECIAL_IDS["<|user|>"],
        ord("q"),
        END,
        SPECIAL_IDS["<|assistant|>"],
        ord("a"),
        END,
    ]


def test_the_server_s_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    """One format: what transformers makes of a whole conversation, up to the end of the answer."""
    tokenizer = causal_tokenizer()
    formatter = formatter_of(save_backbone(tmp_path, "llama", tokenizer))
    conversation = [{"role": "user", "content": "q é"}, {"role": "assistant", "content": "a\n"}]
    whole = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    assert ids(formatter, "q é", "a\n") == whole


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_left_padding(checkpoint: Checkpoint, data: st.DataObject) -> None:
    """There is no padding to be on the wrong side: batch mates, order and shared prefixes change no score."""
    token = st.integers(0, 260)
    stem = data.draw(st.lists(token, max_size=20))
    tails = data.draw(st.lists(st.lists(token, min_size=1, max_size=30), min_size=1, max_size=6))
    items = [np.array(stem + tail, dtype=np.int64) for tail in tails]
    together = score(checkpoint.model, items)
    order = data.draw(st.permutations(range(len(items))))
    shuffled = score(checkpoint.model, [items[place] for place in order])
    for place, item in enumerate(items):
        alone = float(score(checkpoint.model, [item])[0])
        assert float(together[place]) == pytest.approx(alone, abs=1e-5)
        assert float(shuffled[order.index(place)]) == pytest.approx(alone, abs=1e-5)


def _dataset(examples: Sequence[Example]) -> ElementDataset:
    return ElementDataset(examples, judgement_weights([example.record for example in examples], Heads()), 8, 0)


def test_batch_of_one(checkpoint: Checkpoint) -> None:
    """A batch of one item, of one token, and one training step on one pair."""
    assert score(checkpoint.model, [np.array([7])]).shape == (1,)
    examples = encode_records(toy_records(1), checkpoint.formatter, progress=False)
    batch = Collator(checkpoint.model.family, 16)([_dataset(examples)[0]])
    assert batch["first"].shape == (1,)
    assert score(checkpoint.model, [examples[0].items[0].ids]).isfinite().all()


def test_over_long_prompt(checkpoint: Checkpoint) -> None:
    """The prompt is cut on the left; the response, its end and the model's limit are kept."""
    formatter = checkpoint.formatter
    prompt = "".join(map(chr, range(97, 123))) * 40
    (item,) = formatter.encode(prompt, ["the answer"], (Truncation.PROMPT_LEFT, Truncation.RESPONSE_RIGHT))
    assert isinstance(item, EncodedItem)
    assert len(item.ids) == formatter.max_tokens
    assert item.removed > 0
    tail = [*(ord(letter) for letter in "the answer"), *formatter.text_format.end]
    assert item.ids.tolist()[-len(tail) :] == tail
    assert score(checkpoint.model, [item.ids]).isfinite().all()


def test_empty_response(checkpoint: Checkpoint) -> None:
    """An empty response has a score of its own, read at its end: it is neither dropped nor zero."""
    empty, blank, full = checkpoint.formatter.encode("question", ["", " ", "answer"])
    assert isinstance(empty, EncodedItem)
    assert isinstance(blank, EncodedItem)
    assert isinstance(full, EncodedItem)
    assert len(empty.ids) == len(blank.ids) - 1
    scores = score(checkpoint.model, [empty.ids, blank.ids, full.ids])
    assert len(set(scores.tolist())) == 3
    assert (scores != 0).all()


def test_template_drift() -> None:
    """Another template, another limit, other special tokens: another hash, by which the service knows."""
    old = tiny_checkpoint(Family.CAUSAL).formatter
    around = old.text_format
    drifted = [
        Formatter(around, old.template + " ", old.tokenizer, old.max_tokens),
        Formatter(around, old.template, old.tokenizer, old.max_tokens - 1),
        Formatter(around.model_copy(update={"begin": (CLS,)}), old.template, old.tokenizer, old.max_tokens),
        Formatter(around.model_copy(update={"end": (END, END)}), old.template, old.tokenizer, old.max_tokens),
    ]
    hashes = {formatter.sha256 for formatter in [old, *drifted]}
    assert len(hashes) == 5
    assert Formatter(around, old.template, old.tokenizer, old.max_tokens).sha256 == old.sha256


def test_a_spelt_out_end_of_turn_is_text(checkpoint: Checkpoint) -> None:
    """A policy must not be able to write the special token at which its score is read."""
    for token in ("<|end|>", "[SEP]"):
        (item,) = checkpoint.formatter.encode("question", [f"good{token}"])
        assert isinstance(item, EncodedItem)
        (plain,) = checkpoint.formatter.encode("question", ["good"])
        assert isinstance(plain, EncodedItem)
        special = SPECIAL_IDS[token]
        assert item.ids.tolist().count(special) == plain.ids.tolist().count(special)


def test_first_loss_is_ln_2(checkpoint: Checkpoint) -> None:
    """An untrained head must not already prefer something."""
    examples = encode_records(toy_records(20, responses=4), checkpoint.formatter, progress=False)
    dataset = _dataset(examples)
    batch = Collator(checkpoint.model.family, 16)([dataset[slot] for slot in range(len(dataset))])
    items = [ids for example in examples for ids in example.sequences]
    scores = score(checkpoint.model, items)
    values = bradley_terry(scores[batch["first"]] - scores[batch["second"]], batch["preference"])
    assert float(mean_by_element(values, batch["element"])) == pytest.approx(math.log(2), abs=0.03)


def test_close_scores_are_not_tied_by_bf16() -> None:
    """Steps of bfloat16 around 23 are 0.125: head and scores are float32 even inside autocast."""
    model = tiny_checkpoint(Family.CAUSAL).model
    with torch.no_grad():
        model.head.weight.mul_(200)
    items = [np.array([*range(10, 40), token]) for token in range(60, 100)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score(model, items)
    assert scores.dtype == torch.float32
    assert scores.abs().max() > 4
    assert len(set(scores.tolist())) > len(set(scores.bfloat16().tolist()))
