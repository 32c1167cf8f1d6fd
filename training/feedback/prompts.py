"""The prompts a policy is asked: read, split, and put into an order."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from training.config import SAMPLE, SAMPLE_DATA


class PromptError(ValueError):
    """A file of prompts cannot be used; the message names file, line and what to do."""


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str


Prompt = tuple[Message, ...]
"""A conversation up to where the policy answers."""

_PROMPT: TypeAdapter[str | Prompt] = TypeAdapter(str | Prompt)


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as chat messages."""
    return [turn.model_dump() for turn in prompt]


def read_prompts(source: str) -> list[Prompt]:
    """The distinct prompts of a file of JSON lines, or of the sample data, in their order; a text is a user's message.

    Raises:
        PromptError: a line that holds no prompt, or no prompt at all.
        OSError: the file is not there.
    """
    paths = sorted(SAMPLE_DATA.glob("*.jsonl")) if source == SAMPLE else [Path(source)]
    found = list(dict.fromkeys(prompt for path in paths for prompt in _read(path)))
    if not found:
        raise PromptError(f"{source}: no prompts in it")
    return found


def _read(path: Path) -> Iterator[Prompt]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of prompts")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _parse(line, f"{path}:{number}")


def _parse(line: str, where: str) -> Prompt:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or "prompt" not in row:
        raise PromptError(f"{where}: needs an object with the key prompt: a text, or a list of role and content")
    try:
        prompt = _PROMPT.validate_python(row["prompt"])
    except ValidationError as error:
        raise PromptError(f"{where}: prompt must be a text, or a list of objects with role and content") from error
    if not prompt or (not isinstance(prompt, str) and prompt[-1].role == "assistant"):
        raise PromptError(f"{where}: a prompt must not be empty, nor end in the assistant's message")
    return (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt


def split_prompts(prompts: Sequence[Prompt], held_out: int, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Training prompts, and `held_out` that are kept apart.

    Raises:
        PromptError: nothing would be left to train on.
    """
    if held_out >= len(prompts):
        raise PromptError(
            f"{len(prompts)} prompts are too few to keep {held_out} apart; "
            "lower prompts.held_out_count or name prompts.held_out"
        )
    shuffled = list(prompts)
    random.Random(seed).shuffle(shuffled)
    return shuffled[held_out:], shuffled[:held_out]


class PromptOrder:
    """Prompts without end: each once before any comes again, in a new order each time."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self._prompts = list(prompts)
        self._generator = random.Random(seed)
        self._left: list[Prompt] = []

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        while len(self._left) < count:
            self._left += self._generator.sample(self._prompts, len(self._prompts))
        taken, self._left = self._left[:count], self._left[count:]
        return taken
