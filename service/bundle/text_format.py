"""How a prompt and a response become tokens. Defined once, stored in the bundle, hashed, used everywhere.

    begin + template(prompt) + middle + response + end

The template is a Jinja chat template; it renders the prompt's messages up to the point where the response
starts. Prompt and response are tokenized apart, as an RL policy sees them (it continues the prompt's
*tokens*), so a prompt has the same tokens whatever follows, and `end` is always the last thing that the
model reads.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, NoReturn

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from service.bundle.layout import IntArray
from service.bundle.tokenizer import TextTokenizer

PART_CHARS = 2**16
"""Characters tokenized in one go: a few hundredths of a second."""

PLAIN_TEMPLATE = (
    "{% if messages | length == 1 %}{{ messages[0].content }}"
    "{% else %}{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}{% endif %}"
)
"""For backbones without a chat template: a message as it stands, a dialogue as `role: content` paragraphs."""


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    role: str = Field(min_length=1, description="user, assistant, system, or what the chat template knows.")
    content: str


Prompt = str | Sequence[Message]


class Truncation(StrEnum):
    """Which side of an over-long item may be cut."""

    PROMPT_LEFT = "prompt_left"
    RESPONSE_RIGHT = "response_right"


class Side(StrEnum):
    """Which side of an over-long text that holds both prompt and response may be cut."""

    LEFT = "left"
    RIGHT = "right"


class TextFormat(BaseModel):
    """The part of the format that is token ids; the template is a file of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    begin: tuple[NonNegativeInt, ...] = Field(description="Before the prompt: [CLS], or BOS if the template has none.")
    middle: tuple[NonNegativeInt, ...] = Field(description="Between prompt and response: [SEP], or none.")
    end: tuple[NonNegativeInt, ...] = Field(min_length=1, description="After the response: [SEP], or the end of turn.")
    special_tokens: dict[str, str] = Field(
        default={}, description="Names that chat templates use, such as bos_token, and their text."
    )

    @property
    def overhead(self) -> int:
        """Tokens that every item carries beside prompt and response."""
        return len(self.begin) + len(self.middle) + len(self.end)


class FormatError(ValueError):
    """The template cannot render these messages (say, roles that do not alternate)."""


class TooLongError(ValueError):
    """An item has more tokens than the model takes, and the caller allowed no cut that helps."""

    def __init__(self, tokens: int, limit: int, advice: str) -> None:
        super().__init__(f"{tokens} tokens, more than the model's limit of {limit}; {advice}")
        self.tokens = tokens
        self.limit = limit


@dataclass(frozen=True)
class EncodedItem:
    """One prompt with one response.

    Attributes:
        ids: (L,) int64.
        removed: tokens cut to fit.
        response_tokens: tokens of the response that are left; 0 for texts that are nothing to the tokenizer.
    """

    ids: IntArray
    removed: int
    response_tokens: int


class Formatter:
    """The one way from prompt and response to tokens.

    Args:
        text_format: the ids around prompt and response.
        template: a Jinja chat template.
        tokenizer: the model's tokenizer.
        max_tokens: the most tokens of an item, everything included.

    Raises:
        FormatError: the template does not parse.
    """

    def __init__(self, text_format: TextFormat, template: str, tokenizer: TextTokenizer, max_tokens: int) -> None:
        self.text_format = text_format
        self.template = template
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        # No strftime_now: a reward that depends on the day it is asked for is not a reward.
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(template)
        except Exception as error:  # the Python that Jinja generates may not compile either
            raise FormatError(f"the chat template does not parse: {error}") from error

    @property
    def sha256(self) -> str:
        """Identity of the format: equal exactly when every text gets the same tokens."""
        parts: list[Any] = [
            self.text_format.model_dump(mode="json"),
            self.template,
            self.max_tokens,
            hashlib.sha256(self.tokenizer.definition.encode()).hexdigest(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def render(self, prompt: Prompt, whole: bool = False) -> str:
        """Text of the prompt, up to where the response starts. A string is one user message.

        Args:
            prompt: text, or messages.
            whole: the messages are a whole conversation, after which no response starts.

        Raises:
            FormatError: the template refuses the messages.
        """
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        try:
            return self._template.render(
                messages=[message.model_dump() for message in messages],
                add_generation_prompt=not whole,
                tools=None,  # templates test `tools is not none`, and transformers always passes both
                documents=None,
                **self.text_format.special_tokens,
            )
        except Exception as error:  # a template is a program: on odd messages it may divide by zero
            raise FormatError(f"the chat template cannot render these messages: {error}") from error

    def encode(
        self, prompt: Prompt, responses: Sequence[str], truncate: Sequence[Truncation] = ()
    ) -> list[EncodedItem | TooLongError]:
        """Tokens of one prompt with each of its responses, in order; the prompt is tokenized once.

        Args:
            prompt: text, or messages.
            responses: texts; an empty one is legal here.
            truncate: the sides that may be cut, tried in order.

        Returns:
            For each response its tokens, or the error that says why it does not fit.

        Raises:
            FormatError: the template refuses the messages.
        """
        return [item for part in self.encode_parts(prompt, responses, truncate) for item in part]

    def encode_whole(self, text: str, framed: bool = True, cut: Side | None = None) -> EncodedItem | TooLongError:
        """Tokens of one text that holds a rendered prompt and its response; special tokens that it spells count.

        Args:
            text: as a caller rendered it.
            framed: see `frame`.
            cut: the side that may be cut.

        Raises:
            FormatError: this model's format cannot be recovered from one text.
        """
        # Chat templates may put a line feed behind the end of a turn, where training has nothing.
        stripped = self.tokenizer.markup(text.rstrip()) if framed and text[-1:].isspace() else []
        ended = stripped and stripped[-len(self.text_format.end) :] == list(self.text_format.end)
        return self.frame(stripped if ended else self.tokenizer.markup(text), framed, cut)

    def frame(self, ids: Sequence[int], framed: bool = True, cut: Side | None = None) -> EncodedItem | TooLongError:
        """Tokens of one item from those of a text that holds both its prompt and its response.

        Args:
            ids: below the tokenizer's `vocabulary_size`.
            framed: put what every item begins and ends with around it, where it is not there yet: once, never twice.
                Otherwise the tokens are scored as they are.
            cut: the side that may be cut.

        Raises:
            FormatError: the model reads prompt and response with tokens between them, which are not in the text.
        """
        around = self.text_format
        body, begin, end = list(ids), list(self._opening), list(around.end)
        if begin and framed and body[: len(begin)] == begin:
            body = body[len(begin) :]
        if framed and body[-len(end) :] == end:
            body = body[: -len(end)]
        if around.middle and not _contains(body, around.middle):
            raise FormatError(
                "this model reads something between prompt and response, and a text of both does not say where: send "
                "prompt and response apart"
            )
        begin, end = (begin, end) if framed else ([], [])
        excess = len(begin) + len(body) + len(end) - self.max_tokens
        if excess > 0:
            if cut is None or excess >= len(body):
                tokens = len(begin) + len(body) + len(end)
                return TooLongError(tokens, self.max_tokens, "shorten it, or ask for it to be cut")
            body = body[excess:] if cut is Side.LEFT else body[: len(body) - excess]
        return EncodedItem(np.array(begin + body + end, dtype=np.int64), max(0, excess), len(body))

    def encode_parts(
        self, prompt: Prompt, responses: Sequence[str], truncate: Sequence[Truncation] = ()
    ) -> Iterator[list[EncodedItem | TooLongError]]:
        """The same a part of `PART_CHARS` characters at a time, so that long work can be left half done."""
        prompt_ids = self.tokenizer.markup(self.render(prompt))
        start = chars = 0
        for stop, response in enumerate(responses, 1):
            chars += len(response)
            if chars >= PART_CHARS or stop == len(responses):
                part = self.tokenizer.plain(responses[start:stop])
                yield [self._fitted(prompt_ids, ids, truncate) for ids in part]
                start, chars = stop, 0

    @cached_property
    def _opening(self) -> tuple[int, ...]:
        """What every item begins with: `begin`, or the BOS that the chat template spells.

        Callers that expect a server to add the BOS strip it from what their template rendered, as verl does.
        """
        if self.text_format.begin or "bos_token" not in self.text_format.special_tokens:
            return self.text_format.begin
        bos = self.tokenizer.markup(self.text_format.special_tokens["bos_token"])
        try:
            rendered = self.tokenizer.markup(self.render("."))
        except FormatError:
            return ()
        return tuple(bos) if rendered[: len(bos)] == bos else ()

    def _fitted(
        self, prompt: list[int], response: list[int], truncate: Sequence[Truncation]
    ) -> EncodedItem | TooLongError:
        try:
            return self._join(prompt, response, truncate)
        except TooLongError as error:
            return error

    def _join(self, prompt: list[int], response: list[int], truncate: Sequence[Truncation]) -> EncodedItem:
        around = self.text_format
        excess = removed = max(0, around.overhead + len(prompt) + len(response) - self.max_tokens)
        for side in truncate:
            # A response keeps at least one token; a prompt may go altogether.
            if side is Truncation.PROMPT_LEFT:
                cut = min(excess, len(prompt))
                prompt = prompt[cut:]
            else:
                cut = min(excess, max(0, len(response) - 1))
                response = response[: len(response) - cut]
            excess -= cut
        if excess:
            raise TooLongError(
                around.overhead + len(prompt) + len(response),
                self.max_tokens,
                'shorten it, or send "truncate": "prompt_left" or "response_right"'
                if not truncate
                else f"cutting {' and '.join(truncate)} is not enough",
            )
        ids = np.array([*around.begin, *prompt, *around.middle, *response, *around.end], dtype=np.int64)
        return EncodedItem(ids, removed, len(response))


class _Generation(Extension):
    """`{% generation %}` in a template marks what an assistant said, for trainers; it changes no text."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What is between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    """Whether the tokens of `part` follow each other somewhere."""
    return any(tuple(ids[start : start + len(part)]) == tuple(part) for start in range(len(ids) - len(part) + 1))


def _to_json(value: object, indent: int | None = None) -> str:
    """The `tojson` of chat templates as transformers has it: Jinja's own escapes HTML and sorts keys."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    """What chat templates call to refuse messages."""
    raise jinja2.TemplateError(message)
