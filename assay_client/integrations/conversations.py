"""From what a trainer has of a rollout to a prompt and a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assay_client.types import Prompt

Turns = Sequence[Mapping[str, Any]]
"""Chat messages with `role` and `content`; other keys are not sent."""


def pair(prompt: str | Turns, completion: str | Turns) -> tuple[Prompt, str]:
    """A prompt and the response to it, each as text or as messages.

    Of a completion of several messages, as rollouts with tools have them, the last one is the response, and those
    before it belong to the prompt.

    Raises:
        ValueError: the completion has no messages, or does not end in the assistant's; a message holds pictures.
    """
    if isinstance(completion, str):
        return (prompt if isinstance(prompt, str) else [_turn(turn) for turn in prompt]), completion
    if not completion or completion[-1].get("role") != "assistant":
        raise ValueError("a completion of messages must end in the assistant's, which is scored")
    *before, last = [_turn(turn) for turn in completion]
    if isinstance(prompt, str):
        return ([{"role": "user", "content": prompt}, *before] if before else prompt), last["content"]
    return [*(_turn(turn) for turn in prompt), *before], last["content"]


def _turn(turn: Mapping[str, Any]) -> dict[str, str]:
    content = turn.get("content") or ""
    if not isinstance(content, str):
        if any(part.get("type") != "text" for part in content):
            raise ValueError("a message holds more than text, which a reward model of texts cannot see")
        content = "".join(part["text"] for part in content)
    return {"role": turn["role"], "content": content}
