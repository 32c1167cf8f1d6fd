"""The reward model as a sequence classifier of transformers, for frameworks that hold it in their own process.

TRL, verl and OpenRLHF load such a folder, and `assay-train import` reads it back. The chat template that goes with it
writes prompt and response as the model has learnt them, and ends where the model is read.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from service.bundle.layout import Family
from service.bundle.text_format import EncodedItem, FormatError, Formatter
from training.backbone import quiet_loading
from training.checkpoint import Checkpoint, Description
from training.export.graph import ExportError
from training.pretrained_head import CONVERSATIONS, TOLERANCE
from training.scoring import score_sequences


def refuse_no_classifier(description: Description, folder: Path) -> None:
    """Refuse what could not become a classifier in `folder`; to be asked before hours of training, too.

    Raises:
        ExportError: an encoder, several heads, or a folder that is there and not empty.
    """
    if description.family is not Family.CAUSAL or description.heads.kind != "single":
        raise _cannot(
            "only a decoder with one head can be written as a classifier, and this is a "
            f"{description.family} model with the heads {', '.join(description.heads.weights)}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _cannot(f"{folder} is there and not empty; name another folder")


def export_classifier(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the model and its tokenizer as transformers keeps them; `folder` must not be there, or be empty.

    On a few conversations, tokens and scores are compared with the model's own first.

    Raises:
        ExportError: as of `refuse_no_classifier`, or an architecture whose classifier has more than a linear layer, or
            other tokens or scores than the model's own; nothing is written.
    """
    refuse_no_classifier(checkpoint.description, folder)
    tokenizer = _tokenizer(checkpoint.formatter)
    classifier = _classifier(checkpoint, tokenizer)
    _compare(checkpoint, classifier, tokenizer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staging = scratch / "model"
        with quiet_loading():  # its bar is of one file
            classifier.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        if folder.exists():
            folder.rmdir()
        staging.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tokenizer(formatter: Formatter) -> PreTrainedTokenizerFast:
    """With a padding token that does not end an answer: classifiers read the last token that is no padding."""
    definition = Tokenizer.from_str(formatter.tokenizer.definition)
    named = formatter.text_format.special_tokens
    special = [named["pad_token"]] if "pad_token" in named else []
    special += [token.content for token in definition.get_added_tokens_decoder().values() if token.special]
    free = [text for text in special if definition.token_to_id(text) not in formatter.text_format.end]
    if not free:
        raise _cannot("every special token ends an answer, and none is left for padding")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=definition, **named | {"pad_token": free[0]})  # type: ignore[no-untyped-call]
    tokenizer.chat_template = _template(formatter, definition)
    return tokenizer


def _template(formatter: Formatter, definition: Tokenizer) -> str:
    """The chat template of a whole conversation: the prompt by the model's own, then the answer in its frame."""
    around = formatter.text_format
    begin, middle, end = (
        json.dumps(_spelled(formatter, definition, ids)) for ids in (around.begin, around.middle, around.end)
    )
    return (
        "{% if messages[-1]['role'] == 'assistant' %}{% set answer = messages[-1]['content'] %}"
        "{% set messages = messages[:-1] %}{% set add_generation_prompt = true %}{% endif %}"
        f"{{{{ {begin} }}}}{formatter.template}"
        f"{{% if answer is defined %}}{{{{ {middle} + answer + {end} }}}}{{% endif %}}"
    )


def _spelled(formatter: Formatter, definition: Tokenizer, ids: Sequence[int]) -> str:
    text: str = definition.decode(list(ids), skip_special_tokens=False)
    if formatter.tokenizer.markup(text) != list(ids):
        raise _cannot(f"a chat template cannot spell the tokens {list(ids)} of the text format")
    return text


@torch.no_grad()
def _classifier(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    backbone = checkpoint.model.backbone
    config = type(backbone.config).from_dict(
        backbone.config.to_dict() | {"id2label": {0: "reward"}, "label2id": {"reward": 0}}
    )
    config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    classifier: PreTrainedModel = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32
    )
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise _cannot(f"the head of {type(classifier).__name__} is not one linear layer")
    getattr(classifier, classifier.base_model_prefix).load_state_dict(backbone.state_dict())
    head.weight.copy_(checkpoint.model.head.weight)
    return classifier.eval()


def _compare(checkpoint: Checkpoint, classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    compared = 0
    for prompt, response in CONVERSATIONS:
        try:
            (item,) = checkpoint.formatter.encode(prompt, [response])
        except FormatError:
            continue  # roles that the template refuses
        if not isinstance(item, EncodedItem):
            continue  # longer than the model takes
        turns = [message.model_dump() for message in prompt] + [{"role": "assistant", "content": response}]
        ids = cast(list[int], tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))
        if ids != item.ids.tolist():
            raise _cannot(
                "a conversation as a whole has other tokens than prompt and response apart, as the model has learnt "
                f"them: {tokenizer.decode(ids)!r}"
            )
        with torch.no_grad():
            theirs = float(classifier(input_ids=torch.tensor([ids])).logits[0, 0])
        ours = float(score_sequences(checkpoint.model, [[item.ids]], checkpoint.description.block_queries)[0][0, 0])
        if not abs(ours - theirs) <= TOLERANCE * max(1.0, abs(ours)):
            raise _cannot(f"the classifier gives {theirs:.6g} where the model gives {ours:.6g}")
        compared += 1
    if not compared:
        raise _cannot("model.max_tokens is too small to compare scores with the model's own")


def _cannot(reason: str) -> ExportError:
    return ExportError(f"export.transformers: {reason}")
