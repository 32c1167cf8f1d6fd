"""Text to token ids, safe from several threads."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


class TextTokenizer:
    """A `tokenizer.json` in two readings.

    As *markup*, the special tokens that a chat template wrote become their ids; as *plain* text, a response
    that spells out a special token gets ordinary tokens: a policy must not be able to forge the end of
    its own turn.

    Args:
        definition: the content of a `tokenizer.json`.

    Raises:
        ValueError: the definition cannot be read.
    """

    def __init__(self, definition: str) -> None:
        self.definition = definition
        # Nothing sets anything on the two after this, so any number of threads may encode with them.
        try:
            self._markup = _load(definition)
            self._plain = _load(_without_spellings(definition))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a readable tokenizer.json: {error}") from error
        self._plain.encode_special_tokens = True
        self.vocabulary_size: int = 1 + max(self._markup.get_vocab(with_added_tokens=True).values(), default=-1)

    @classmethod
    def from_file(cls, path: Path) -> "TextTokenizer":
        """Read a `tokenizer.json`.

        Raises:
            OSError, ValueError: the file cannot be read or is not a tokenizer.
        """
        # Not read_text: it turns CR LF into LF, and the definition would not be the one that was hashed.
        return cls(path.read_bytes().decode("utf-8"))

    def markup(self, text: str) -> list[int]:
        """Token ids of a text whose special tokens count as such. Adds none."""
        return _encode(self._markup, [text])[0]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens spelled out taken as ordinary text. Adds none."""
        return _encode(self._plain, texts)


def _load(definition: str) -> Tokenizer:
    """The tokenizer, without the truncation and padding that its definition may ask for."""
    tokenizer = Tokenizer.from_str(definition)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def _without_spellings(definition: str) -> str:
    """The same tokenizer with the same ids, in which no text spells a special token.

    `encode_special_tokens` only stops the split at special tokens. Where they are pieces of the model itself,
    as in Unigram (XLM-R, DeBERTa-v3) or WordLevel, the model still finds them unless they have another name.
    """
    document = json.loads(definition)
    model = document["model"]
    vocabulary = model["vocab"]  # Unigram: [[piece, score]]; else {piece: id}
    pieces = [piece for piece, _ in vocabulary] if isinstance(vocabulary, list) else list(vocabulary)
    special = {token["content"] for token in document.get("added_tokens") or () if token["special"]}
    names = {token: f"{token} {secrets.token_hex(16)}" for token in special.intersection(pieces)}
    if not names:
        return definition
    if isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {names.get(piece, piece): index for piece, index in vocabulary.items()}
    for token in document["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & names.keys()]
    document["post_processor"] = None  # names special tokens too, and is never run
    return json.dumps(document)
