"""The text format that a pretrained tokenizer implies."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from service.bundle.layout import Family
from service.bundle.text_format import PLAIN_TEMPLATE, TextFormat
from training.attention import UnsupportedBackboneError

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ANSWER = "Xyz"


def derive_format(tokenizer: PreTrainedTokenizerFast, family: Family) -> tuple[TextFormat, str]:
    """The ids around prompt and response, and the chat template.

    A causal model with a chat template: BOS only if the template does not write it (never twice), and as end
    the token that the template writes after an assistant's turn. Without a template: what the tokenizer itself
    puts around a pair (encoders) or a single text (decoders), ending in EOS.

    Raises:
        UnsupportedBackboneError: no token ends a text, or the template refuses the simplest conversation.
    """
    special = _special_tokens(tokenizer)
    eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    if family is Family.BIDIRECTIONAL:
        begin, middle, end = _around_pair(tokenizer)
        return _format(begin, middle, end or eos, special), PLAIN_TEMPLATE
    begin, after = _around(tokenizer)
    template = chat_template(tokenizer)
    if template is None:
        return _format(begin, (), after or eos, special), PLAIN_TEMPLATE
    question, answered = _rendered(tokenizer)
    if tokenizer.bos_token is not None and question.startswith(str(tokenizer.bos_token)):
        begin = []
    following = tokenizer.encode(answered.rsplit(_ANSWER, 1)[-1], add_special_tokens=False)
    known = tokenizer.added_tokens_decoder
    turn_end = [token for token in following[:1] if token in known and known[token].special]
    return _format(begin, (), turn_end or eos, special), template


def derive_conversation_format(tokenizer: PreTrainedTokenizerFast, pad_token_id: int | None) -> tuple[TextFormat, str]:
    """The same for a reward model that was trained on whole conversations, as its chat template writes them.

    What the template writes between its generation prompt and the answer comes between prompt and response, and all
    that follows the answer is its end, up to the token that is read: classifiers read the last that is not padding.

    Raises:
        UnsupportedBackboneError: there is no template, or it writes an answer otherwise than it asks for one.
    """
    template = chat_template(tokenizer)
    if template is None:
        raise UnsupportedBackboneError(
            "model.head is pretrained, and the tokenizer has no chat template to say how it read prompt and response"
        )
    question, answered = _rendered(tokenizer)
    if not answered.startswith(question):
        raise UnsupportedBackboneError(
            "model.head is pretrained, and the chat template begins an answer otherwise than it asks for one"
        )
    between, after = answered[len(question) :].rsplit(_ANSWER, 1)
    middle, end = (tokenizer.encode(text, add_special_tokens=False) for text in (between, after))
    while end and end[-1] == pad_token_id:
        end = end[:-1]
    if not end:
        raise UnsupportedBackboneError(
            "model.head is pretrained, and what ends an answer is the padding token as well, so that the score is read "
            "at the answer's last word; here it is read at a token that ends every answer"
        )
    return _format([], middle, end, _special_tokens(tokenizer)), template


def chat_template(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The chat template; where there are several, the one named default."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """By the names that chat templates use."""
    return {name: str(token) for name in _SPECIAL_NAMES if (token := getattr(tokenizer, name, None)) is not None}


def _rendered(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """A question as the template writes it, up to the answer; and the question with its answer."""
    question = {"role": "user", "content": "a"}
    answer = {"role": "assistant", "content": _ANSWER}
    try:
        asked = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        answered = tokenizer.apply_chat_template([question, answer], tokenize=False)
    except Exception as error:  # a template is a program: it may raise anything
        raise UnsupportedBackboneError(f"the chat template cannot render a question and its answer: {error}") from error
    if _ANSWER not in str(answered):
        raise UnsupportedBackboneError("the chat template does not write the assistant's words")
    return str(asked), str(answered)


def _format(begin: Sequence[int], middle: Sequence[int], end: Sequence[int], special: dict[str, str]) -> TextFormat:
    if not end:
        raise UnsupportedBackboneError("the tokenizer has neither an end-of-turn nor an EOS token to read a score at")
    return TextFormat(begin=tuple(begin), middle=tuple(middle), end=tuple(end), special_tokens=special)


def _around(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a single text."""
    ids: list[int] = tokenizer("x")["input_ids"]
    bare: list[int] = tokenizer.encode("x", add_special_tokens=False)
    start = _find(ids, bare, 0)
    return ids[:start], ids[start + len(bare) :]


def _around_pair(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int], list[int]]:
    """Ids that the tokenizer puts before, between and after two texts."""
    ids: list[int] = tokenizer("x", "y")["input_ids"]
    first: list[int] = tokenizer.encode("x", add_special_tokens=False)
    second: list[int] = tokenizer.encode("y", add_special_tokens=False)
    start = _find(ids, first, 0)
    split = _find(ids, second, start + len(first))
    return ids[:start], ids[start + len(first) : split], ids[split + len(second) :]


def _find(ids: Sequence[int], part: Sequence[int], start: int) -> int:
    """Where `part` lies in `ids`, from `start` on."""
    for place in range(start, len(ids) - len(part) + 1):
        if ids[place : place + len(part)] == part:
            return place
    raise UnsupportedBackboneError("the tokenizer changes a text when it adds special tokens: no format can be derived")
