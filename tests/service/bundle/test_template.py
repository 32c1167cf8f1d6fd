"""What a chat template makes of a prompt, what it may not do, and what its failures look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle.layout import Family
from service.bundle.text_format import FormatError, Formatter, Message, TextFormat
from tests.pocket import pocket_formatter

CHAT = pocket_formatter(Family.CAUSAL)
PLAIN = pocket_formatter(Family.BIDIRECTIONAL)


def formatter(template: str, **special_tokens: str) -> Formatter:
    text_format = TextFormat(begin=(), middle=(), end=(0,), special_tokens=special_tokens)
    return Formatter(text_format, template, CHAT.tokenizer, CHAT.max_tokens)


# -- rendering -----------------------------------------------------------------


def test_plain_template_leaves_one_message_as_it_stands() -> None:
    assert PLAIN.render("  hello\n") == "  hello\n"
    assert PLAIN.render([Message(role="system", content="hello")]) == "hello"


def test_plain_template_writes_a_dialogue_in_paragraphs() -> None:
    dialogue = [Message(role="user", content="hi"), Message(role="assistant", content="hello")]
    assert PLAIN.render(dialogue) == "user: hi\n\nassistant: hello"


def test_chat_template_ends_where_the_response_starts() -> None:
    dialogue = [Message(role="system", content="be kind"), Message(role="user", content="hi")]
    assert CHAT.render(dialogue) == "<|system|>be kind<|end|><|user|>hi<|end|><|assistant|>"


@given(st.text())
@pytest.mark.parametrize("format_", [CHAT, PLAIN])
def test_a_string_is_one_user_message(format_: Formatter, text: str) -> None:
    assert format_.render(text) == format_.render([Message(role="user", content=text)])


@given(st.text())
def test_a_text_is_rendered_letter_by_letter(text: str) -> None:
    # No HTML escapes, no lost blanks, no template in a template.
    assert PLAIN.render(text) == text
    assert CHAT.render(text) == f"<|user|>{text}<|end|><|assistant|>"


def test_a_message_is_data_not_template() -> None:
    assert PLAIN.render("{{ 7 * 7 }} {% raw %}") == "{{ 7 * 7 }} {% raw %}"


def test_special_tokens_have_their_names_in_the_template() -> None:
    assert formatter("{{ bos_token }}{{ messages[0].content }}", bos_token="[CLS]").render("x") == "[CLS]x"


def test_json_in_a_template_is_written_as_transformers_writes_it() -> None:
    text = formatter("{{ messages | tojson }} {{ {'b': 1, 'a': [2]} | tojson(indent=1) }}").render("<é & 'ü'>")
    assert text == '[{"role": "user", "content": "<é & \'ü\'>"}] {\n "b": 1,\n "a": [\n  2\n ]\n}'


def test_a_template_may_ask_for_tools_and_documents_and_gets_none() -> None:
    template = "{% if tools is not none or documents is not none %}tools{% else %}no tools{% endif %}"
    assert formatter(template).render("x") == "no tools"


def test_loop_controls_are_known() -> None:
    template = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    assert formatter(template).render([Message(role="user", content=text) for text in "ab"]) == "a"


@pytest.mark.parametrize("message", [{"role": ""}, {"role": "user", "content": 3}, {"name": "x"}])
def test_a_message_has_a_role_and_a_text_and_nothing_else(message: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "user", "content": "hi"} | message)


# -- templates that refuse or fail ---------------------------------------------


@pytest.mark.parametrize("template", ["{% for %}", "{{ x | no_such_filter }}", "{% nonsense %}", "{{", "{% if x %}"])
def test_a_template_that_does_not_parse_is_refused(template: str) -> None:
    with pytest.raises(FormatError, match=r"the chat template does not parse: ."):
        formatter(template)


def test_a_template_that_python_cannot_compile_is_refused() -> None:
    with pytest.raises(FormatError, match="does not parse"):
        formatter("{% for x in [1] %}" * 200 + "{% endfor %}" * 200)


def test_a_template_refuses_messages_in_its_own_words() -> None:
    with pytest.raises(FormatError, match="cannot render these messages: no such role: judge"):
        CHAT.encode([Message(role="judge", content="hi")], ["yes"])


@pytest.mark.parametrize(
    "expression",
    [
        "messages[0].content.nothing.more",
        "messages[7].content",
        "'a' + 1",
        "1 / 0",
        "'abc'.index('x')",
        "'%d' | format('x')",
        "range(10 ** 9)",
        "no_such_function()",
    ],
)
def test_whatever_goes_wrong_in_a_template_is_a_format_error(expression: str) -> None:
    with pytest.raises(FormatError, match=r"the chat template cannot render these messages: ."):
        formatter("{{ %s }}" % expression).render("hi")  # noqa: UP031 - braces all over


@pytest.mark.parametrize(
    "expression",
    [
        "messages.__class__.__mro__",
        "''.__class__.__base__.__subclasses__()",
        "raise_exception.__globals__['json']",
        "(messages | attr('__class__')).__mro__",
        "self._TemplateReference__context.environment.globals.clear()",
        "messages.append(1)",
        "messages[0].update({'content': 'x'})",
        "'{0.__class__.__mro__}'.format(messages)",
    ],
)
def test_a_template_cannot_leave_its_sandbox(expression: str) -> None:
    with pytest.raises(FormatError):
        formatter("{{ %s }}" % expression).render("hi")  # noqa: UP031


def test_a_template_cannot_include_files() -> None:
    with pytest.raises(FormatError):
        formatter("{% include '/etc/hostname' %}").render("hi")


def test_a_template_does_not_know_the_day() -> None:
    assert formatter("{{ strftime_now is defined }}").render("hi") == "False"
    with pytest.raises(FormatError, match="strftime_now"):
        formatter("{{ strftime_now('%d %B %Y') }}").render("hi")
