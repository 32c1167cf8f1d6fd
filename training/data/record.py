"""The preference record: one prompt, its responses, and what people said about pairs of them."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bundle.text_format import Message

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Choice = Literal["i", "j", "tie"]

_ASKED = re.compile(r"human: (?!assistant:).*?(?= assistant:)")
"""Of a transcript without differences of case and white space, what stands before the first reply."""

_OTHER: dict[Choice, Choice] = {"i": "j", "j": "i", "tie": "tie"}


class Annotation(BaseModel):
    """What one annotator said of a pair; `source` is that of their names, where it is not that of the record."""

    model_config = _STRICT

    annotator: str = Field(min_length=1)
    choice: Choice
    source: str | None = Field(default=None, min_length=1)


class Judgement(BaseModel):
    """Votes on responses `i` and `j` of a record. Votes are counts; they may be weighted.

    `margin`, where it is known, is by how much `i` is better than `j` (negative: worse), on the scale of the
    source. `aspect` names what was judged (helpful, harmless, ...), where it was not all in all. `weight` is how much
    the judgement counts in training, 1 if absent. `annotations` say who cast the votes.
    """

    model_config = _STRICT

    i: int = Field(ge=0)
    j: int = Field(ge=0)
    i_wins: float = Field(ge=0)
    j_wins: float = Field(ge=0)
    ties: float = Field(default=0.0, ge=0)
    margin: float | None = None
    aspect: str | None = Field(default=None, min_length=1)
    weight: float | None = Field(default=None, gt=0, le=1e6)
    annotations: list[Annotation] | None = None

    @model_validator(mode="after")
    def _is_a_judgement(self) -> Self:
        if self.i == self.j:
            raise ValueError(f"i and j are both {self.i}; a judgement compares two responses")
        if self.votes <= 0:
            raise ValueError("no votes: one of i_wins, j_wins and ties must be above 0")
        if not math.isfinite(self.votes):
            raise ValueError("the votes add up to more than a number can hold")
        if self.annotations is not None:
            cast = Counter(annotation.choice for annotation in self.annotations)
            if (cast["i"], cast["j"], cast["tie"]) != (self.i_wins, self.j_wins, self.ties):
                raise ValueError(
                    f"the annotations hold {cast['i']} votes for i, {cast['j']} for j and {cast['tie']} ties, but "
                    f"i_wins, j_wins and ties are {self.i_wins:g}, {self.j_wins:g} and {self.ties:g}"
                )
        return self

    @property
    def votes(self) -> float:
        """All votes, ties included."""
        return self.i_wins + self.j_wins + self.ties

    @property
    def soft_label(self) -> float:
        """The share of the votes for `i`, in [0, 1]; a tie is half a vote for each."""
        return (self.i_wins + self.ties / 2) / self.votes

    def flipped(self) -> "Judgement":
        """The same judgement with `i` and `j` exchanged."""
        annotations = self.annotations and [
            annotation.model_copy(update={"choice": _OTHER[annotation.choice]}) for annotation in self.annotations
        ]
        return self.model_copy(
            update={
                "i": self.j,
                "j": self.i,
                "i_wins": self.j_wins,
                "j_wins": self.i_wins,
                "margin": None if self.margin is None else -self.margin,
                "annotations": annotations,
            }
        )

    def with_votes_of(self, other: "Judgement") -> "Judgement":
        """The votes of both judgements of a pair; who cast them is known only where both know it."""
        known = self.annotations is not None and other.annotations is not None
        return self.model_copy(
            update={
                "i_wins": self.i_wins + other.i_wins,
                "j_wins": self.j_wins + other.j_wins,
                "ties": self.ties + other.ties,
                "annotations": [*(self.annotations or ()), *(other.annotations or ())] if known else None,
            }
        )

    @property
    def terms(self) -> tuple[float | None, str | None, float | None]:
        """What must agree for the votes of two judgements of a pair to be added: margin, aspect and weight."""
        return self.margin, self.aspect, self.weight


class PreferenceRecord(BaseModel):
    """A prompt, at least two responses and at least one judgement. Unknown fields are refused.

    `group` names what must stay together in a split (a debate, a document, a user). `category` is a label to
    report by. `qualities` names how each response came about (a model, a level of quality), one per response.
    """

    model_config = _STRICT

    id: str = Field(min_length=1)
    prompt: str | list[Message]
    responses: list[str] = Field(min_length=2)
    judgements: list[Judgement] = Field(min_length=1)
    source: str = Field(min_length=1)
    group: str | None = Field(default=None, min_length=1)
    category: str | None = None
    qualities: list[str] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for field, text in self._texts():
            if not is_unicode(text):
                raise ValueError(f"{field} holds half a surrogate pair, which is no character and has no UTF-8")
        if self.prompt == []:
            raise ValueError('prompt is an empty list of messages; write no prompt as ""')
        if not any(response.strip() for response in self.responses):
            raise ValueError("every response is empty; there is nothing to prefer")
        count = len(self.responses)
        for number, judgement in enumerate(self.judgements):
            if max(judgement.i, judgement.j) >= count:
                raise ValueError(
                    f"judgement {number} compares {judgement.i} and {judgement.j}, but the "
                    f"{count} responses have the indices 0 to {count - 1}"
                )
        if self.qualities is not None and len(self.qualities) != count:
            raise ValueError(f"{len(self.qualities)} qualities for {count} responses; name one per response")
        return self

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Every text with the name of its field."""
        for field in ("id", "source", "group", "category"):
            yield field, getattr(self, field) or ""
        for turn in self.messages:
            yield from (("prompt", turn.role), ("prompt", turn.content))
        for place, text in enumerate(self.responses):
            yield f"responses.{place}", text
        for place, text in enumerate(self.qualities or []):
            yield f"qualities.{place}", text
        for place, judgement in enumerate(self.judgements):
            yield f"judgements.{place}.aspect", judgement.aspect or ""
            for number, annotation in enumerate(judgement.annotations or ()):
                yield f"judgements.{place}.annotations.{number}.annotator", annotation.annotator

    @property
    def prompt_key(self) -> str:
        """A hash of the exact prompt; a plain text equals a single user message with that text."""
        return _digest([[turn.role, turn.content] for turn in self.messages])

    @property
    def split_key(self) -> str:
        """What must not be divided between training and test: the group, else how the prompt opens.

        A dialogue opens with its first user turn, and is one dialogue at every later turn; a prompt of one turn is its
        own opening. Case and white space do not count. Records without a prompt (comparisons of bare texts) have
        nothing to share but their responses, so the key is then that of the set of responses.
        """
        if self.group is not None:
            return f"group:{self.group}"
        if not self.has_prompt:
            return f"responses:{_digest(sorted({normalise(text) for text in self.responses}))}"
        return self.opening_key

    @property
    def loose_prompt_key(self) -> str:
        """A hash of the prompt that ignores case and white space."""
        return _loose_key(self._loose_turns())

    @property
    def opening_key(self) -> str:
        """A hash of how the prompt begins, up to its first user turn with any text; case and white space do not count.

        Of a transcript in one text (`Human: ... Assistant: ...`), that is what stands before the first reply.
        """
        return _loose_key(_opening(self._loose_turns()))

    @property
    def goes_on(self) -> bool:
        """Whether the prompt is a dialogue that goes on after its opening."""
        turns = self._loose_turns()
        return _opening(turns) != turns

    def _loose_turns(self) -> list[tuple[str, str]]:
        """Role and text of each turn of the prompt, without differences of case and white space."""
        return [(turn.role, normalise(turn.content)) for turn in self.messages]

    @property
    def messages(self) -> Sequence[Message]:
        """The prompt as messages; a plain text is one user message."""
        return [Message(role="user", content=self.prompt)] if isinstance(self.prompt, str) else self.prompt

    @property
    def has_prompt(self) -> bool:
        """Whether there is any text before the responses."""
        return any(turn.content.strip() for turn in self.messages)


def normalise(text: str) -> str:
    """The text without differences of case and white space, for comparison only."""
    return " ".join(text.casefold().split())


def is_unicode(text: str) -> bool:
    """Whether a text has UTF-8, as one with half a surrogate pair has not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _opening(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """See `PreferenceRecord.opening_key`."""
    if len(turns) == 1:
        role, text = turns[0]
        asked = _ASKED.match(text)
        return turns if asked is None else [(role, asked[0])]
    first = next((place for place, (role, text) in enumerate(turns) if role == "user" and text), len(turns))
    return turns[: first + 1]


def _loose_key(turns: Sequence[tuple[str, str]]) -> str:
    return f"prompt:{_digest([list(turn) for turn in turns])}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
