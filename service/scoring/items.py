"""What can be scored: a prompt with a response, or both in one text or in token ids."""

from dataclasses import dataclass
from typing import Protocol

from service.bundle.text_format import EncodedItem, Formatter, Prompt, Side, TooLongError


@dataclass(frozen=True)
class Item:
    """One prompt with one response."""

    prompt: Prompt
    response: str

    @property
    def prompt_chars(self) -> int:
        """Characters of the prompt's text."""
        return len(self.prompt) if isinstance(self.prompt, str) else sum(len(m.content) for m in self.prompt)


class Whole(Protocol):
    """An item whose prompt and response come in one."""

    @property
    def size(self) -> int:
        """Characters or tokens; 0 if there is nothing to score."""

    def encode(self, formatter: Formatter) -> EncodedItem | TooLongError:
        """Its tokens.

        Raises:
            FormatError: see `Formatter.frame`.
        """


@dataclass(frozen=True)
class WholeText:
    """A rendered text; arguments of `Formatter.encode_whole`."""

    text: str
    framed: bool = True
    cut: Side | None = None

    @property
    def size(self) -> int:
        """See `Whole`."""
        return len(self.text)

    def encode(self, formatter: Formatter) -> EncodedItem | TooLongError:
        """See `Whole`."""
        return formatter.encode_whole(self.text, self.framed, self.cut)


@dataclass(frozen=True)
class WholeTokens:
    """Token ids, all of which the tokenizer knows; arguments of `Formatter.frame`."""

    ids: tuple[int, ...]
    framed: bool = False
    cut: Side | None = None

    @property
    def size(self) -> int:
        """See `Whole`."""
        return len(self.ids)

    def encode(self, formatter: Formatter) -> EncodedItem | TooLongError:
        """See `Whole`."""
        return formatter.frame(self.ids, self.framed, self.cut)


AnyItem = Item | Whole
