"""HH transcripts, made up and real."""

from pathlib import Path

from service.bundle.text_format import Message
from training.data.readers import read_records
from training.data.readers.transcript import split_transcripts


def test_marks_inside_a_line_are_text() -> None:
    history, chosen, rejected = split_transcripts(
        "\n\nHuman: Say Assistant: twice\n\nAssistant: Human: no",
        "\n\nHuman: Say Assistant: twice\n\nAssistant: ok",
    )
    assert history == [Message(role="user", content="Say Assistant: twice")]
    assert (chosen, rejected) == ("Human: no", "ok")


def test_a_side_that_stops_early_keeps_its_last_turn_as_response() -> None:
    start = "\n\nHuman: a\n\nAssistant: b"
    history, chosen, rejected = split_transcripts(start, start + "\n\nHuman: c\n\nAssistant: d")
    assert [turn.role for turn in history] == ["user"]
    assert (chosen, rejected) == ("b", "b\n\nHuman: c\n\nAssistant: d")


def test_equal_transcripts_keep_their_last_turn_as_responses() -> None:
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    history, chosen, rejected = split_transcripts(text, text)
    assert [turn.content for turn in history] == ["a", "b", "c"]
    assert (chosen, rejected) == ("d", "d")


def test_real_dialogues(public_data: Path) -> None:
    """All 2,312 rows parse; prompts end with the person; nothing but white space is lost."""
    result = read_records(public_data / "hh-harmless.jsonl.gz")
    assert (result.format, len(result.records), result.skipped) == ("hh", 2312, [])
    first = result.records[0]
    assert [turn.role for turn in first.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert first.responses[0].startswith("No, sorry!  All of these involve a pen")
    assert all(record.messages[-1].role == "user" for record in result.records)
    assert all(response == response.strip() for record in result.records for response in record.responses)
    # Five dialogues hold a further turn on one side, written after an inline "Human:".
    assert sum("\n\nAssistant:" in text for record in result.records for text in record.responses) == 5
