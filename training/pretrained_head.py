"""Reward models that were trained elsewhere: classifiers of transformers with one output.

So TRL, OpenRLHF and most model cards keep them. A decoder's text is what the tokenizer's chat template makes of a whole
conversation, read at its last token; here prompt and response are tokenized apart. An encoder's text is the pair of
prompt and response, read at the first token. Whether both are the same tokens, and give the same score, is tried on a
few conversations when such a model is loaded. Where the template changes an odd response, a warning says which.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from service.bundle.text_format import EncodedItem, FormatError, Formatter, Message
from training.attention import UnsupportedBackboneError
from training.classifier_head import State
from training.model import RewardModel
from training.scoring import score_sequences

logger = logging.getLogger("assay.training")

TOLERANCE = 1e-3
"""Largest difference of a score, in parts of its size or of 1 if it is smaller; rounding gives 1e-5."""

Conversation = tuple[Sequence[Message], str]


@dataclass(frozen=True)
class Scored:
    """A conversation, and the tokens and the score that the model as it came gives it."""

    prompt: Sequence[Message]
    response: str
    ids: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class PretrainedHead:
    """The layers on top, see `training.classifier_head.take_head`, and what they give with their backbone."""

    weights: State
    transform: str | None
    scored: tuple[Scored, ...]


def load_classifier(location: str, **settings: Any) -> PreTrainedModel:
    """A classifier in float32, all of whose weights are in its files.

    Raises:
        OSError: transformers cannot load it.
        UnsupportedBackboneError: it lacks weights, such as those of a head, or is an adapter.
    """
    classifier, info = AutoModelForSequenceClassification.from_pretrained(
        location, dtype=torch.float32, output_loading_info=True, **settings
    )
    if getattr(classifier, "_hf_peft_config_loaded", False):
        raise UnsupportedBackboneError(
            f"{location!r} is an adapter: merge it into its base first (peft's merge_and_unload), and save that"
        )
    if missing := sorted(info["missing_keys"]):
        raise UnsupportedBackboneError(
            f"model.head is pretrained, and {location!r} has no head or is not whole: {missing[0]} is not among its "
            "weights"
        )
    loaded: PreTrainedModel = classifier.eval()
    return loaded


def score_pairs(
    classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, formatter: Formatter
) -> tuple[Scored, ...]:
    """What an encoder as it came makes of some conversations: pairs of the prompt as a text and the response.

    To be called before `training.backbone.prepare`.

    Raises:
        UnsupportedBackboneError: prompt and response are told apart by segments, which a layout does not have.
    """
    found = []
    for prompt, response in CONVERSATIONS:
        inputs = tokenizer(formatter.render(prompt), response, return_tensors="pt")
        segments = inputs.pop("token_type_ids", None)
        if segments is not None and segments.any() and getattr(classifier.config, "type_vocab_size", 0) > 1:
            raise UnsupportedBackboneError(
                f"model.head is pretrained, and {type(classifier).__name__} tells prompt and response apart by their "
                "segments (token_type_ids), which are not computed here"
            )
        with torch.no_grad():
            score = float(classifier(**inputs).logits[0, 0])
        found.append(Scored(prompt, response, tuple(inputs["input_ids"][0].tolist()), score))
    return tuple(found)


def score_conversations(
    classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, formatter: Formatter
) -> tuple[Scored, ...]:
    """What a decoder as it came makes of some conversations; to be called before `training.backbone.prepare`.

    Its chat template is rendered as transformers does, but for today's date, which some write: a score that depends on
    the day is not served. Conversations whose roles the template refuses are left out.

    Raises:
        UnsupportedBackboneError: it refuses all of them.
    """
    found = []
    for prompt, response in CONVERSATIONS:
        try:
            ids = _whole(prompt, response, tokenizer, formatter)
        except FormatError:
            continue
        with torch.no_grad():
            score = float(classifier(input_ids=torch.tensor([ids])).logits[0, 0])
        found.append(Scored(prompt, response, tuple(_as_read(ids, classifier.config.pad_token_id)), score))
    if not found:
        raise UnsupportedBackboneError("model.head is pretrained, and the chat template refuses every conversation")
    for meaning, response in _ODD.items():
        (item,) = formatter.encode(found[0].prompt, [response])
        ids = _as_read(_whole(found[0].prompt, response, tokenizer, formatter), classifier.config.pad_token_id)
        if isinstance(item, EncodedItem) and item.ids.tolist() != ids:
            logger.warning("the chat template changes a response that %s; here it is scored as it is", meaning)
    if "strftime_now" in formatter.template:
        logger.warning("the chat template writes today's date, and here the date that it has without one")
    return tuple(found)


def check_scores(model: RewardModel, formatter: Formatter, scored: Sequence[Scored], block_queries: int) -> None:
    """Prove that `model` reads the conversations as the model that it was made of, and scores them alike.

    Raises:
        UnsupportedBackboneError: other tokens, or other scores.
    """
    items = []
    for known in scored:
        (item,) = formatter.encode(known.prompt, [known.response])
        if not isinstance(item, EncodedItem):
            continue  # longer than model.max_tokens
        if tuple(item.ids.tolist()) != known.ids:
            raise UnsupportedBackboneError(
                "model.head is pretrained, and its tokenizer makes other tokens of a conversation than prompt and "
                f"response apart have: {_difference(known.ids, item.ids.tolist())}"
            )
        items.append((item, known.score))
    if not items:
        raise UnsupportedBackboneError("model.max_tokens is too small to compare scores with those of the model's own")
    scores = score_sequences(model, [[item.ids] for item, _ in items], block_queries)
    for (_, theirs), ours in zip(items, np.concatenate(scores)[:, 0], strict=True):
        if not abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs)):
            raise UnsupportedBackboneError(
                f"model.head is pretrained, and the model gives {ours:.6g} where it came with {theirs:.6g}: its head "
                "does more than to read one token"
            )


def _whole(
    prompt: Sequence[Message], response: str, tokenizer: PreTrainedTokenizerFast, formatter: Formatter
) -> list[int]:
    """Tokens of a whole conversation, as `apply_chat_template` gives them."""
    text = formatter.render([*prompt, Message(role="assistant", content=response)], whole=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _as_read(ids: list[int], pad_token_id: int | None) -> list[int]:
    """Up to the token that is read: classifiers take the last that is not padding, whatever it stands for."""
    while ids and ids[-1] == pad_token_id:
        ids = ids[:-1]
    return ids


def _difference(theirs: Sequence[int], ours: Sequence[int]) -> str:
    place = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    return f"from token {place} on {list(theirs[place : place + 4])}, here {list(ours[place : place + 4])}"


def _user(text: str) -> Message:
    return Message(role="user", content=text)


_ODD = {
    "begins with white space": " It is.",
    "ends with white space": "It is.\n",
    "thinks before it answers": "<think>\nIs it?\n</think>\n\nIt is.",
}
CONVERSATIONS: tuple[Conversation, ...] = (
    ([_user("What is the capital of France?")], "Paris is the capital of France."),
    ([_user("What is the capital of France?")], "I would rather not say."),
    (
        [_user("Name a fruit."), Message(role="assistant", content="An apple."), _user("And another?")],
        "A pear, or a plum: 2 more are 3.",
    ),
    ([Message(role="system", content="Answer in one word."), _user("Is water wet?")], "Yes."),
    (
        [_user("Write a loop in Python.")],
        "Here it is:\n\n```python\nfor n in range(3):\n    print(n)\n```\n\nThat is all.",
    ),
    ([_user("Wie heißt du? 你好 👋")], "Ich heiße Äsop; 我叫伊索。"),
)
