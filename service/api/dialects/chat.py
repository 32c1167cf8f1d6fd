"""Conversations as OpenAI's chat API writes them."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from service.api.dialects.dialect import Open
from service.api.errors import ApiError
from service.api.schemas import Text
from service.bundle.text_format import Message
from service.scoring.items import Item

MAX_TURNS = 1024
"""Turns of a conversation, and pieces of a turn."""


class TextPart(Open):
    """A piece of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class ChatTurn(Open):
    """One message."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text | Annotated[Sequence[TextPart], Field(max_length=MAX_TURNS)]

    @property
    def message(self) -> Message:
        """As the model's template takes it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=self.role, content=content)


Turns = Annotated[list[ChatTurn], Field(min_length=1, max_length=MAX_TURNS, fail_fast=True)]


def conversation(turns: Sequence[ChatTurn], field: str = "messages") -> Item:
    """The last turn as the response to those before it.

    Raises:
        ApiError: it is not the assistant's, or there is none before it.
    """
    messages = [turn.message for turn in turns]
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ApiError(422, "invalid", "the conversation must end in the assistant's turn, which is scored", field)
    return Item(messages[:-1], messages[-1].content)
