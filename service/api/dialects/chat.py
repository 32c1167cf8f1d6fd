"""Conversations as OpenAI's chat API writes them."""

from collections.abc import Sequence
from typing import Literal

from service.api.dialects.dialect import Open
from service.api.errors import ApiError
from service.api.schemas import Text
from service.bundle.text_format import Message
from service.scoring.items import Item


class TextPart(Open):
    """A piece of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class ChatTurn(Open):
    """One message."""

    role: Text
    content: Text | Sequence[TextPart]

    @property
    def message(self) -> Message:
        """As the model's template takes it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=self.role, content=content)


def conversation(turns: Sequence[ChatTurn], field: str = "messages") -> Item:
    """The last turn as the response to those before it.

    Raises:
        ApiError: it is not the assistant's, or there is none before it.
    """
    messages = [turn.message for turn in turns]
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ApiError(422, "invalid", "the conversation must end in the assistant's turn, which is scored", field)
    return Item(messages[:-1], messages[-1].content)
