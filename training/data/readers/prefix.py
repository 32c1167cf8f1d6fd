"""The prompt that chosen and rejected share without saying so."""

from service.bundle.text_format import Message
from training.data.errors import DataError


def common_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt, chosen response and rejected response of two full texts.

    The prompt is the longest common prefix, cut back to where a line or a sentence (`.`, `?`, `!`, `:`) ends
    in both texts, else to where a word ends. White space within a line goes with the response. Prompt +
    response is the text that was given. Where one text is the beginning of the other, the prompt ends with an
    earlier line or sentence, so that both responses say something. Raises `DataError` if there is none, or if
    the texts are equal: then nothing tells where the prompt ends.
    """
    if chosen == rejected:
        raise DataError("chosen and rejected are the same text and no prompt is given; where it ends is unknown")
    limit = min(len(chosen), len(rejected))
    longest = next((place for place in range(limit) if chosen[place] != rejected[place]), limit)
    contained = _blank_from(chosen, rejected, longest)
    for ends in (_sentence_ends,) if contained else (_sentence_ends, _word_ends):
        for place in range(longest, 0, -1):
            if ends(chosen, place) and ends(rejected, place) and not _blank_from(chosen, rejected, place):
                return chosen[:place], chosen[place:], rejected[place:]
    if contained:
        shorter, longer = ("chosen", "rejected") if len(chosen) < len(rejected) else ("rejected", "chosen")
        raise DataError(
            f"{shorter} is the beginning of {longer}, no prompt is given and no earlier line or sentence ends in both; "
            "where the prompt ends is unknown: give it in a column of its own"
        )
    return "", chosen, rejected


def _blank_from(chosen: str, rejected: str, place: int) -> bool:
    """Whether nothing would be left of one of the two."""
    return not chosen[place:].strip() or not rejected[place:].strip()


def _sentence_ends(text: str, place: int) -> bool:
    before = text[place - 1]
    return before == "\n" or (before in ".?!:" and _word_ends(text, place))


def _word_ends(text: str, place: int) -> bool:
    return (place == len(text) or text[place].isspace()) and not text[place - 1].isspace()


def common_messages(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """Prompt, chosen reply and rejected reply of two conversations; the prompt is all that they share.

    Raises `DataError` unless exactly one assistant message follows the prompt on both sides.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if chosen and chosen == rejected:
        shared -= 1  # Equal conversations: the last message is the reply.
    for column, rest in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if len(rest) != 1 or rest[0].role != "assistant":
            roles = ", ".join(turn.role for turn in rest) or "nothing"
            raise DataError(
                f"{column} has {roles} after the {shared} messages that both share; "
                "exactly one assistant message is needed"
            )
    return chosen[:shared] if shared else [], chosen[-1].content, rejected[-1].content
