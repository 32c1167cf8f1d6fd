"""One pure function per format: a row of a file to a preference record. Each may raise `DataError`.

Every format may also have the columns `id`, `source`, `group` and `category`, with the meaning they have in a
record; those of one pair a row (`trl`, `hh`, `votes`) also `aspect` and `weight`, with that in a judgement. Other
columns than those named are not read, except in `records`, where they are refused.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Literal

from service.bundle.text_format import Message
from training.data.errors import DataError
from training.data.readers import fields
from training.data.readers.fields import Row
from training.data.readers.prefix import common_messages, common_text
from training.data.readers.transcript import split_transcripts
from training.data.record import PreferenceRecord

Format = Literal["records", "trl", "hh", "ranking", "votes"]
RowReader = Callable[[Row, str, str], PreferenceRecord]


def records_row(row: Row, row_id: str, source: str) -> PreferenceRecord:
    """Our own format; the row is the record, and says its own `id` and `source`."""
    blank = {name for name in ("group", "category") if row.get(name) == ""}  # cells of CSV
    return fields.record(**{name: value for name, value in row.items() if name not in blank})


def votes_row(row: Row, row_id: str, source: str) -> PreferenceRecord:
    """`prompt`, `response_a`, `response_b`, and how people voted.

    As counts in `votes_a`, `votes_b` and `ties` (0 if absent), or, without these, with names in `votes`, a list of
    [annotator, "a", "b" or "tie"].
    """
    if row.get("votes_a") is None and row.get("votes_b") is None:
        votes: dict[str, Any] = fields.annotations(row, "votes")
    else:
        votes = {
            "i_wins": fields.votes(row, "votes_a"),
            "j_wins": fields.votes(row, "votes_b"),
            "ties": fields.votes(row, "ties", default=0.0),
        }
    return fields.record(
        prompt=fields.prompt(row),
        responses=[fields.text(row, "response_a"), fields.text(row, "response_b")],
        judgements=[{"i": 0, "j": 1, **votes, **_terms(row)}],
        **_common(row, row_id, source),
    )


def ranking_row(row: Row, row_id: str, source: str) -> PreferenceRecord:
    """`prompt`, `responses`, and either `ranks` (1 is best) or `scores` (more is better), one per response.

    Every pair is judged once; equal ranks or scores are a tie.
    """
    responses = fields.texts(row, "responses")
    ranks, scores = row.get("ranks") is not None, row.get("scores") is not None
    if ranks == scores:
        raise DataError(f"{'both' if ranks else 'neither'} of the columns 'ranks' and 'scores'; give one of them")
    worth = (
        fields.numbers(row, "scores", len(responses))
        if scores
        else [-rank for rank in fields.numbers(row, "ranks", len(responses))]
    )
    judgements = [
        {
            "i": i,
            "j": j,
            "i_wins": int(worth[i] > worth[j]),
            "j_wins": int(worth[i] < worth[j]),
            "ties": int(worth[i] == worth[j]),
        }
        for i, j in combinations(range(len(responses)), 2)
    ]
    return fields.record(
        prompt=fields.prompt(row), responses=responses, judgements=judgements, **_common(row, row_id, source)
    )


def hh_row(row: Row, row_id: str, source: str) -> PreferenceRecord:
    r"""`chosen` and `rejected`: transcripts; the turns that they share (`\n\nHuman:` ...) are the prompt."""
    history, chosen, rejected = split_transcripts(fields.text(row, "chosen"), fields.text(row, "rejected"))
    record = _choice(row, row_id, source, history, chosen, rejected)
    # Many dialogues open with the same turn: they must not be divided between training and test.
    return record.model_copy(update={"group": record.group or f"hh:{record.messages[0].content}"})


def trl_row(row: Row, row_id: str, source: str) -> PreferenceRecord:
    """`chosen`, `rejected` (texts or messages); optional `prompt` (else what both share) and `margin`."""
    chosen, rejected = fields.prompt(row, "chosen"), fields.prompt(row, "rejected")
    given = None if row.get("prompt") is None else fields.prompt(row)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if given is None:
            return _choice(row, row_id, source, *common_text(chosen, rejected))
        return _choice(row, row_id, source, given, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise DataError("one of chosen and rejected is text and the other a list of messages; make them alike")
    if given is None:
        return _choice(row, row_id, source, *common_messages(chosen, rejected))
    history = [Message(role="user", content=given)] if isinstance(given, str) else given
    return _choice(
        row, row_id, source, history, _reply(chosen, history, "chosen"), _reply(rejected, history, "rejected")
    )


ROW_READERS: Mapping[Format, RowReader] = {
    "records": records_row,
    "trl": trl_row,
    "hh": hh_row,
    "ranking": ranking_row,
    "votes": votes_row,
}

_COLUMNS = (
    "records: id, prompt, responses, judgements, source; trl: chosen, rejected, prompt (optional); "
    "hh: chosen, rejected (transcripts); ranking: prompt, responses, ranks or scores; "
    "votes: prompt, response_a, response_b, and votes_a, votes_b, or votes"
)


COLUMNS = frozenset(
    {
        *("id", "source", "group", "category", "prompt"),
        *("responses", "judgements", "qualities", "ranks", "scores"),
        *("chosen", "rejected", "margin", "aspect", "weight"),
        *("response_a", "response_b", "votes_a", "votes_b", "ties", "votes"),
    }
)
"""All that some format reads."""


def detect(row: Row) -> Format:
    r"""The format that the columns of a row show; `chosen` from `\n\nHuman:` on and no prompt is `hh`."""
    columns = {name for name, value in row.items() if value is not None}
    if {"responses", "judgements"} <= columns:
        return "records"
    if "responses" in columns and columns & {"ranks", "scores"}:
        return "ranking"
    if {"response_a", "response_b"} <= columns and ("votes" in columns or {"votes_a", "votes_b"} <= columns):
        return "votes"
    if {"chosen", "rejected"} <= columns:
        opening = row["chosen"]
        transcript = isinstance(opening, str) and opening.lstrip().startswith("Human:")
        return "hh" if transcript and "prompt" not in columns else "trl"
    found = ", ".join(sorted(columns)) or "none"
    raise DataError(
        f"no known format has these columns ({found}); say with data.columns which of them are those of one: {_COLUMNS}"
    )


def _choice(
    row: Row, row_id: str, source: str, prompt: str | list[Message], chosen: str, rejected: str
) -> PreferenceRecord:
    judgement: dict[str, Any] = {"i": 0, "j": 1, "i_wins": 1, "j_wins": 0, **_terms(row)}
    if row.get("margin") is not None:
        judgement["margin"] = fields.number(row, "margin")
    return fields.record(
        prompt=prompt, responses=[chosen, rejected], judgements=[judgement], **_common(row, row_id, source)
    )


def _terms(row: Row) -> dict[str, Any]:
    """What a row may say of its one judgement."""
    weight = None if row.get("weight") is None else fields.number(row, "weight")
    return {"aspect": fields.optional_text(row, "aspect"), "weight": weight}


def _reply(messages: list[Message], history: list[Message], column: str) -> str:
    """The one assistant message after the prompt, which may or may not be repeated before it."""
    rest = messages[len(history) :] if messages[: len(history)] == history else messages
    if len(rest) != 1 or rest[0].role != "assistant":
        roles = ", ".join(turn.role for turn in rest) or "nothing"
        raise DataError(f"{column} has {roles} after the prompt; exactly one assistant message is needed")
    return rest[0].content


def _common(row: Row, row_id: str, source: str) -> dict[str, Any]:
    named = row.get("id")
    if isinstance(named, int) and not isinstance(named, bool):
        named = str(named)
    elif named is not None:
        named = fields.text(row, "id")
    return {
        "id": named or row_id,
        "source": fields.optional_text(row, "source") or source,
        "group": fields.optional_text(row, "group"),
        "category": fields.optional_text(row, "category"),
    }
