"""The format that a tokenizer implies, and tokenizers that imply none."""

import pytest
from tokenizers import normalizers, processors
from transformers import PreTrainedTokenizerFast

from service.bundle.layout import Family
from service.bundle.text_format import PLAIN_TEMPLATE
from tests.pocket import SPECIAL_IDS
from tests.training.tiny import CHAT, causal_tokenizer, encoder_tokenizer, with_bos
from training.attention import UnsupportedBackboneError
from training.text_format import derive_format

END, SEP, CLS = (SPECIAL_IDS[token] for token in ("<|end|>", "[SEP]", "[CLS]"))


def around(tokenizer: PreTrainedTokenizerFast, family: Family) -> tuple[tuple[int, ...], ...]:
    text_format, _ = derive_format(tokenizer, family)
    return text_format.begin, text_format.middle, text_format.end


def test_an_encoder_s_pair() -> None:
    assert around(encoder_tokenizer(), Family.BIDIRECTIONAL) == ((CLS,), (SEP,), (SEP,))
    assert derive_format(encoder_tokenizer(), Family.BIDIRECTIONAL)[1] == PLAIN_TEMPLATE


def test_a_pair_with_two_separators_as_roberta_has_it() -> None:
    tokenizer = encoder_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    assert around(tokenizer, Family.BIDIRECTIONAL) == ((CLS,), (SEP, SEP), (SEP,))


def test_an_encoder_without_special_tokens_ends_in_eos() -> None:
    assert around(causal_tokenizer(), Family.BIDIRECTIONAL) == ((), (), (END,))


def test_a_decoder_without_a_template() -> None:
    tokenizer = with_bos(causal_tokenizer(None, bos_token="[CLS]"))
    assert around(tokenizer, Family.CAUSAL) == ((CLS,), (), (END,))
    assert derive_format(tokenizer, Family.CAUSAL)[1] == PLAIN_TEMPLATE


def test_the_end_of_a_turn_goes_before_eos() -> None:
    """EOS may mean the end of a document, and the turn end in another token; the model reads the turn's."""
    tokenizer = causal_tokenizer(eos_token="[SEP]")
    assert tokenizer.eos_token_id == SEP
    assert around(tokenizer, Family.CAUSAL) == ((), (), (END,))


def test_a_template_that_ends_a_turn_in_plain_text_falls_back_on_eos() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert around(causal_tokenizer(template), Family.CAUSAL) == ((), (), (END,))


def test_of_several_templates_the_default_one_is_taken() -> None:
    tokenizer = causal_tokenizer()
    tokenizer.chat_template = {"default": CHAT, "tool_use": "{{ 1 }}"}
    assert derive_format(tokenizer, Family.CAUSAL)[1] == CHAT
    tokenizer.chat_template = {"tool_use": "{{ 1 }}"}
    assert derive_format(tokenizer, Family.CAUSAL)[1] == PLAIN_TEMPLATE


def test_special_tokens_are_given_to_the_template() -> None:
    text_format, _ = derive_format(with_bos(causal_tokenizer(bos_token="[CLS]")), Family.CAUSAL)
    assert text_format.special_tokens == {"bos_token": "[CLS]", "eos_token": "<|end|>", "pad_token": "[PAD]"}


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no') }}", "cannot render a question and its answer"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "does not write"),
    ],
)
def test_templates_that_do_not_serve(template: str, reason: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=reason):
        derive_format(causal_tokenizer(template), Family.CAUSAL)


def test_a_tokenizer_without_any_end() -> None:
    tokenizer = causal_tokenizer(None)
    tokenizer.eos_token = None
    with pytest.raises(UnsupportedBackboneError, match="neither an end-of-turn nor an EOS token"):
        derive_format(tokenizer, Family.CAUSAL)


def test_a_tokenizer_that_changes_a_text_beside_special_tokens() -> None:
    tokenizer = encoder_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="$B [SEP] $A", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UnsupportedBackboneError, match="no format can be derived"):
        derive_format(tokenizer, Family.BIDIRECTIONAL)
