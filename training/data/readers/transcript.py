r"""Transcripts whose turns are marked `\n\nHuman:` and `\n\nAssistant:` (Anthropic's HH-RLHF)."""

import re

from service.bundle.text_format import Message
from training.data.errors import DataError

_MARK = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def split_transcripts(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    """The common history of two transcripts as messages, and what each says after it.

    Turns lose the white space around them. Where one side goes on for more turns than the other after the
    common history, the further turns stay in its response as they were written, marks included. Raises
    `DataError` for a text without marks or with anything before the first, and where the sides part in a
    human turn.
    """
    turns = [_turns(chosen, "chosen"), _turns(rejected, "rejected")]
    shared = 0
    limit = min(len(side) for side in turns) - 1  # One turn at least is left for each response.
    while shared < limit and turns[0][shared][:2] == turns[1][shared][:2]:
        shared += 1
    for column, side in zip(("chosen", "rejected"), turns, strict=True):
        if side[shared][0] != "assistant":
            raise DataError(f"{column} parts from the other side in a human turn (turn {shared + 1}), not in a reply")
    if not shared:
        raise DataError("the two sides share no turn; there is no prompt")
    history = [Message(role=role, content=content) for role, content, _ in turns[0][:shared]]
    return history, chosen[turns[0][shared][2] :].strip(), rejected[turns[1][shared][2] :].strip()


def _turns(text: str, column: str) -> list[tuple[str, str, int]]:
    """Role, stripped content and offset of the content of each turn."""
    marks = list(_MARK.finditer(text))
    if not marks:
        raise DataError(f"{column} has no '\\n\\nHuman:' or '\\n\\nAssistant:' mark; it is no transcript")
    if text[: marks[0].start()].strip():
        raise DataError(f"{column} has text before its first turn: {text[: marks[0].start()].strip()[:40]!r}")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        (_ROLES[mark[1]], text[mark.end() : end].strip(), mark.end()) for mark, end in zip(marks, ends, strict=True)
    ]
