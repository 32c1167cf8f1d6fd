"""A reward model that was trained elsewhere keeps its text and its scores, or is refused with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from service.bundle.layout import Family, plan_layout
from service.bundle.text_format import EncodedItem, Message
from tests.pocket import SPECIAL_IDS
from tests.training.tiny import (
    CHAT,
    DISENTANGLED,
    SMALL,
    causal_tokenizer,
    encoder_tokenizer,
    save_backbone,
    toy_records,
)
from training.attention import UnsupportedBackboneError
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import TrainingConfig
from training.data import Splits
from training.encoding import encode_records
from training.export.graph import export_graph
from training.fit import fit
from training.new_checkpoint import new_checkpoint
from training.prepare import PreparedData
from training.scoring import score_sequences
from training.trainer import make_optimiser

END = SPECIAL_IDS["<|end|>"]
LINE_FEED = CHAT.replace("<|end|>", "<|end|>\n")
"""As Qwen's: what is read is the line feed behind the end of the turn."""
BOS = "[CLS]" + CHAT
"""As Llama 3's."""
THINKS = CHAT.replace(
    "<|{{ message.role }}|>",
    "<|{{ message.role }}|>{% if loop.last and message.role == 'assistant' %}<think></think>\n{% endif %}",
)
"""As Qwen 3's: an answer begins with no thoughts, and the generation prompt does not."""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
"""As Gemma's."""
MARKED = CHAT.replace("{{ message.content }}", "{% generation %}{{ message.content }}{% endgeneration %}")
"""As TRL patches templates, so that trainers see what an assistant said."""
DATED = "{% if strftime_now is defined %}{{ strftime_now('%d %b') }}{% else %}26 Jul{% endif %}" + CHAT
"""As Llama 3.2's."""
MESSAGES = [
    Message(role=role, content=content)
    for role, content in (("user", "how many?"), ("assistant", "3"), ("user", "sure?"))
]


def save_classifier(
    folder: Path, model_type: str = "llama", tokenizer: PreTrainedTokenizerFast | None = None, **settings: Any
) -> Path:
    """A tiny random classifier with one output and its tokenizer, as TRL leaves a reward model."""
    torch.manual_seed(1)
    known = AutoConfig.for_model(model_type)
    names = {name: value for name, value in SMALL.items() if hasattr(known, name)}
    config = AutoConfig.for_model(model_type, **names | {"num_labels": 1} | settings)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    (causal_tokenizer() if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder


def taken_over(folder: Path, **model: Any) -> Checkpoint:
    config = TrainingConfig.model_validate(
        {"model": {"backbone": str(folder), "head": "pretrained"} | model, "optimiser": {"epochs": 0}}
    )
    return new_checkpoint(config, PreparedData(Splits(toy_records(2), [], []), "0" * 64, {}))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mistral", "gpt2", "gpt_neox", "gemma"])
@pytest.mark.parametrize("template", [CHAT, LINE_FEED, BOS, THINKS, NO_SYSTEM, MARKED])
def test_scores_and_tokens_are_those_it_came_with(tmp_path: Path, model_type: str, template: str) -> None:
    tokenizer = causal_tokenizer(template, bos_token="[CLS]")
    folder = save_classifier(tmp_path / "rm", model_type, tokenizer)
    checkpoint = taken_over(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for response in ("yes, 4", "no"):
        conversation = [*(m.model_dump() for m in MESSAGES), {"role": "assistant", "content": response}]
        ids = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
        (item,) = checkpoint.formatter.encode(MESSAGES, [response])
        assert isinstance(item, EncodedItem)
        assert item.ids.tolist() == ids
        with torch.no_grad():
            wanted = theirs(input_ids=torch.tensor([ids])).logits.item()
        (score,) = score_sequences(checkpoint.model.eval(), [[item.ids]], 16)
        np.testing.assert_allclose(score, [[wanted]], rtol=1e-4, atol=1e-5)


ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {},
    "mpnet": {},
    "deberta-v2": {**DISENTANGLED, "pooler_hidden_size": SMALL["hidden_size"]},
    "electra": {"type_vocab_size": 1},
    "bert": {"type_vocab_size": 1},
}


@pytest.mark.parametrize("model_type", ENCODERS)
def test_encoders_keep_the_layers_on_top(tmp_path: Path, model_type: str) -> None:
    """In the module, in what is saved, and in the graph; and a training can go on from there."""
    tokenizer = encoder_tokenizer()
    folder = save_classifier(tmp_path / "rm", model_type, tokenizer, **ENCODERS[model_type])
    checkpoint = taken_over(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    items, wanted = [], []
    for prompt, response in (("how many?", "3, I think"), ("how many?", "no"), ("", "what?")):
        inputs = tokenizer(prompt, response, return_tensors="pt", return_token_type_ids=False)
        (item,) = checkpoint.formatter.encode(prompt, [response])
        assert isinstance(item, EncodedItem)
        assert item.ids.tolist() == inputs["input_ids"][0].tolist()
        items.append([item.ids])
        with torch.no_grad():
            wanted.append(theirs(**inputs).logits.item())
    assert len({*wanted}) == len(wanted)
    save_checkpoint(checkpoint, tmp_path / "run" / "model")
    kept = load_checkpoint(tmp_path / "run" / "model")
    again = taken_over(tmp_path / "run")
    for model in (checkpoint.model.eval(), kept.model, again.model.eval()):
        scores = np.concatenate(score_sequences(model, items, 16))[:, 0]
        np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)
    learning = {id(p) for group in make_optimiser(kept.model, TrainingConfig()).param_groups for p in group["params"]}
    assert {id(p) for name, p in kept.model.named_parameters() if name != "tie_threshold"} <= learning
    if model_type == "deberta-v2":
        export_graph(kept.model, tmp_path / "model.onnx", 16)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        layout = plan_layout([ids for (ids,) in items], Family.BIDIRECTIONAL, block_queries=16)
        np.testing.assert_allclose(session.run(None, layout.arrays())[0][:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_padding_that_ends_a_text_is_not_read(tmp_path: Path) -> None:
    """Where the end of a turn is the padding as well, a classifier reads the token before it."""
    template = LINE_FEED.replace("\n", "[SEP]")
    folder = save_classifier(tmp_path / "rm", tokenizer=causal_tokenizer(template, pad_token="[SEP]"), pad_token_id=257)
    tokenizer = causal_tokenizer(template)
    assert tokenizer.convert_tokens_to_ids("[SEP]") == 257
    assert taken_over(folder).formatter.text_format.end == (tokenizer.convert_tokens_to_ids("<|end|>"),)


def test_no_score_depends_on_the_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = taken_over(save_classifier(tmp_path / "rm", tokenizer=causal_tokenizer(DATED)))
    assert checkpoint.formatter.render("a").startswith("26 Jul")
    assert "writes today's date, and here the date that it has without one" in caplog.text


@pytest.mark.parametrize(
    ("template", "warned"),
    [
        (CHAT, []),
        (CHAT.replace("message.content", "message.content | trim"), ["begins with white", "ends with white"]),
        (CHAT.replace("message.content", "message.content.split('</think>')[-1].lstrip()"), ["begins", "thinks"]),
    ],
)
def test_what_a_template_does_to_odd_responses_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, template: str, warned: list[str]
) -> None:
    taken_over(save_classifier(tmp_path / "rm", tokenizer=causal_tokenizer(template)))
    assert len(caplog.messages) == len(warned)
    for message, part in zip(caplog.messages, warned, strict=True):
        assert f"changes a response that {part}" in message


def test_training_on_keeps_an_eye_on_what_there_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The head that is there goes on at the backbone's rate, and a training that only harms is said to."""
    folder = save_classifier(tmp_path / "rm")
    config = TrainingConfig.model_validate(
        {
            "run": tmp_path / "run", "progress": False, "model": {"backbone": str(folder), "head": "pretrained"},
            "optimiser": {"epochs": 6, "learning_rate": 1e-2, "batch_elements": 4, "patience": 0},
        }
    )  # fmt: skip
    checkpoint = new_checkpoint(config, PreparedData(Splits(toy_records(2), [], []), "0" * 64, {}))
    records = toy_records(12, 1)
    contrary = [record.model_copy(update={"responses": record.responses[::-1]}) for record in records]
    train, validation = (encode_records(part, checkpoint.formatter, False) for part in (contrary, records))
    optimiser = make_optimiser(checkpoint.model, config)
    assert {group["lr"] for group in optimiser.param_groups} == {1e-2}
    fit(checkpoint.model, train, validation, config)
    assert "no state of this training has less" in caplog.text


def changes(change: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose chat template changes what people said."""
    return causal_tokenizer(CHAT.replace("message.content", f"message.content | {change}"))


def with_segments() -> PreTrainedTokenizerFast:
    """As BERT's."""
    return PreTrainedTokenizerFast(
        tokenizer_object=encoder_tokenizer().backend_tokenizer,
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (lambda f: save_backbone(f, "llama", num_labels=1), "has no head or is not whole: score.weight is not"),
        (lambda f: save_classifier(f, num_labels=2), "has 2 outputs; a reward is one"),
        (
            lambda f: save_classifier(f, "bert", with_segments()),
            "tells prompt and response apart by their segments",
        ),
        (
            lambda f: save_classifier(f, "albert", encoder_tokenizer()),
            "is neither one linear layer without bias on the",
        ),
        (lambda f: save_classifier(f, "roberta", encoder_tokenizer(), num_labels=2, pad_token_id=1), "has 2 outputs"),
        (lambda f: save_backbone(f, "distilbert", encoder_tokenizer(), num_labels=1), "classifier.bias is not among"),
        (
            lambda f: save_classifier(f, tokenizer=causal_tokenizer(CHAT, pad_token="<|end|>"), pad_token_id=END),
            "what ends an answer is the padding token as well",
        ),
        (lambda f: save_classifier(f, tokenizer=causal_tokenizer(None)), "has no chat template to say how it read"),
        (
            lambda f: save_classifier(f, tokenizer=causal_tokenizer(CHAT.replace("<|assistant|>", "<|user|>"))),
            "begins an answer otherwise than it asks for one",
        ),
        (lambda f: save_classifier(f, tokenizer=changes("upper")), "does not write the assistant's words"),
        (
            lambda f: save_classifier(f, tokenizer=changes("replace('.', '!')")),
            "makes other tokens of a conversation than prompt and response apart have: from token",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, save: Any, reason: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=reason):
        taken_over(save(tmp_path / "rm"))


def test_a_limit_that_leaves_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackboneError, match="max_tokens is too small"):
        taken_over(save_classifier(tmp_path / "rm"), max_tokens=4)
