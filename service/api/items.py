"""Items of a request whose prompt is measured once, however many of them share it."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.bundle.text_format import Prompt
from service.scoring.items import Item


@dataclass(frozen=True)
class MeasuredItem(Item):
    """An item that knows how long its prompt is: a thousand items with a thousand messages would count a million."""

    chars: int

    @property
    def prompt_chars(self) -> int:
        """Characters of the prompt's text."""
        return self.chars


def measured(prompt: Prompt, responses: Iterable[str]) -> list[Item]:
    """The items of one prompt."""
    chars = Item(prompt, "").prompt_chars
    return [MeasuredItem(prompt, response, chars) for response in responses]
