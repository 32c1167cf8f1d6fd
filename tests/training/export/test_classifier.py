"""A trained model as a classifier of transformers: the same tokens, the same scores, and read back the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.bundle.layout import Family
from service.bundle.text_format import EncodedItem
from tests.training.tiny import CHAT, causal_tokenizer, save_backbone, tiny_checkpoint, toy_records, with_bos
from training.checkpoint import Checkpoint, load_checkpoint
from training.config import DataConfig, ExportConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import write_records
from training.export.classifier import export_classifier
from training.export.graph import ExportError
from training.heads import Heads
from training.pipeline import run_evaluate, run_export, run_fit
from training.scoring import score_sequences

CONVERSATIONS = [("xyz 1", "ab++"), ("xyz 1", "abcd"), ("what is it?", "It is +, I think.")]


def config(folder: Path, backbone: Path, **settings: object) -> TrainingConfig:
    write_records(folder / "toy.jsonl", toy_records(50, responses=3))
    return TrainingConfig.model_validate(
        {
            "run": folder / "run",
            "bundle": folder / "bundle",
            "progress": False,
            "data": DataConfig(train=(str(folder / "toy.jsonl"),), validation_fraction=0.2, test_fraction=0.2),
            "model": ModelConfig(backbone=str(backbone), max_tokens=64, block_queries=16),
            "optimiser": OptimiserConfig(epochs=1, learning_rate=1e-3, head_learning_rate=1e-2),
            **settings,
        }
    )


def scores(checkpoint: Checkpoint) -> list[float]:
    items = []
    for prompt, response in CONVERSATIONS:
        (item,) = checkpoint.formatter.encode(prompt, [response])
        assert isinstance(item, EncodedItem)
        items.append([item.ids])
    return np.concatenate(score_sequences(checkpoint.model, items, 16))[:, 0].tolist()


def by_transformers(folder: Path) -> list[float]:
    """As TRL and others ask: a batch that is padded on the right."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    turns = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in CONVERSATIONS
    ]
    batch = tokenizer.apply_chat_template(turns, padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        found: list[float] = model(**batch).logits[:, 0].tolist()
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "plain", "bos"])
def test_a_run_becomes_a_classifier_and_comes_back(tmp_path: Path, kind: str) -> None:
    """With a chat template, without one, and with a BOS that the tokenizer writes."""
    tokenizer = {
        "plain": lambda: causal_tokenizer(None), "bos": lambda: with_bos(causal_tokenizer(bos_token="[CLS]")),
    }.get(kind, causal_tokenizer)()  # fmt: skip
    backbone = save_backbone(tmp_path / "backbone", "gpt2" if kind == "gpt2" else "llama", tokenizer)
    folder = tmp_path / "classifier"
    asked = config(tmp_path, backbone, export=ExportConfig(transformers=folder))
    run_fit(asked)
    trained = load_checkpoint(asked.run / "model")
    if kind == "llama":
        run_evaluate(asked)
        run_export(asked)
    else:  # without the graph, which takes longest
        export_classifier(trained, folder)
    assert by_transformers(folder) == pytest.approx(scores(trained), abs=1e-5)
    again = ModelConfig(backbone=str(folder), head="pretrained", max_tokens=64, block_queries=16)
    back = config(tmp_path, folder, run=tmp_path / "back", optimiser=OptimiserConfig(epochs=0), model=again)
    run_fit(back)
    assert scores(load_checkpoint(back.run / "model")) == pytest.approx(scores(trained), abs=1e-5)
    with pytest.raises(ExportError, match="classifier is there and not empty; name another folder"):
        export_classifier(trained, folder)


def test_padding_that_ends_an_answer_is_another_one(tmp_path: Path) -> None:
    """Its last token would be taken for padding, and the score be read before it."""
    backbone = save_backbone(tmp_path / "backbone", "llama", causal_tokenizer(pad_token="<|end|>"))
    asked = config(tmp_path, backbone)
    run_fit(asked)
    checkpoint = load_checkpoint(asked.run / "model")
    export_classifier(checkpoint, tmp_path / "classifier")
    assert AutoTokenizer.from_pretrained(tmp_path / "classifier").pad_token != "<|end|>"
    assert by_transformers(tmp_path / "classifier") == pytest.approx(scores(checkpoint), abs=1e-5)


def test_what_no_classifier_can_be_made_of_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    encoder, decoder = tiny_checkpoint(Family.BIDIRECTIONAL), tiny_checkpoint(Family.CAUSAL)
    with pytest.raises(ExportError, match="this is a bidirectional model with the heads reward"):
        export_classifier(encoder, tmp_path / "x")
    three = decoder.description.model_copy(update={"heads": Heads.ensemble(3)})
    with pytest.raises(ExportError, match="with the heads member_1, member_2, member_3"):
        export_classifier(replace(decoder, description=three), tmp_path / "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("precious")
    backbone = save_backbone(tmp_path / "backbone", "llama", causal_tokenizer(CHAT))
    asked = config(tmp_path, backbone, export=ExportConfig(transformers=tmp_path / "x"))
    with pytest.raises(ExportError, match="x is there and not empty"):
        run_fit(asked)
    assert not asked.run.exists()
