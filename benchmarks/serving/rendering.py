"""Requests as the tokens and texts that the bundle's format makes of them: every peer gets exactly these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.serving.workloads import Request, Texts
from service.bundle.layout import Family
from service.bundle.reader import Bundle
from service.bundle.text_format import Formatter
from training.data import PreferenceRecord, public_sets

MARGIN = 8
"""Tokens left free when a real text is cut to fit, for those that its joint with the format may add."""


@dataclass(frozen=True)
class Item:
    """One pair, ready to be sent.

    Attributes:
        prompt, response: the texts.
        ids: all its tokens.
        text: all of it rendered, special tokens spelled out, for peers that take text and add no special tokens.
    """

    prompt: str
    response: str
    ids: tuple[int, ...]
    text: str


class Renderer:
    """The format of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.formatter: Formatter = bundle.formatter
        self.bidirectional = bundle.manifest.family is Family.BIDIRECTIONAL
        self._tokenizer = Tokenizer.from_str(self.formatter.tokenizer.definition)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def items(self, request: Request) -> list[Item]:
        """Every pair of a request.

        Raises:
            TooLongError: a pair has more tokens than the model takes.
        """
        around = self.formatter.text_format
        items = []
        for prompt, response in request.pairs:
            encoded = self.formatter.encode(prompt, [response])[0]
            if isinstance(encoded, Exception):
                raise encoded
            begin, middle, end = (
                "".join(str(self._tokenizer.id_to_token(token)) for token in ids)
                for ids in (around.begin, around.middle, around.end)
            )
            text = f"{begin}{self.formatter.render(prompt)}{middle}{response}{end}"
            items.append(Item(prompt, response, tuple(encoded.ids.tolist()), text))
        return items

    def count(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cut(self, text: str, tokens: int) -> str:
        """The beginning of a text that has at most so many tokens."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return text if len(encoding.ids) <= tokens else text[: encoding.offsets[tokens - 1][1]]

    def texts(self, singles: Sequence[tuple[str, str]]) -> Texts:
        """Pairs that fit the model: a prompt keeps at most two thirds of the room, the response the rest.

        A response of which the tokenizer leaves nothing is left out: a server refuses it.
        """
        room = self.formatter.max_tokens - self.count(self.formatter.render("")) - self.formatter.text_format.overhead
        fitting = []
        for prompt, response in singles:
            asked = self.cut(prompt, 2 * room // 3 - MARGIN)
            answer = self.cut(response, room - self.count(asked) - MARGIN)
            if self.count(answer):
                fitting.append((asked, answer))
        return Texts(fitting, self.count, self.cut)


def real_singles(folder: Path) -> list[tuple[str, str]]:
    """Every prompt of the Auto-J set once, with one of its responses, in the order of the file."""
    return list(dict(_single(record) for record in public_sets.autoj(folder / "autoj.jsonl.gz")).items())


def _single(record: PreferenceRecord) -> tuple[str, str]:
    prompt = record.prompt if isinstance(record.prompt, str) else "\n\n".join(turn.content for turn in record.prompt)
    return prompt, record.responses[0]
