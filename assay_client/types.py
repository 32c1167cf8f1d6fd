"""What goes in and what comes out: prompts, options and the frozen results of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, overload

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""Text, or chat messages `{"role": ..., "content": ...}`."""

Scale: TypeAlias = Literal["raw", "centred", "standardised", "probability"]
Truncate: TypeAlias = Literal["prompt_left", "response_right"]
Preferred: TypeAlias = Literal["a", "b", "tie"]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that gave the scores; the digest names it beyond doubt."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Detail:
    """One scored text: its length as the model saw it, and what had been cut off."""

    tokens: int
    truncated: bool
    tokens_removed: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Work done; `computed_tokens` leaves out what was shared. Of a split call: the sum."""

    items: int
    tokens: int
    computed_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """The server's times in milliseconds. Of a split call, whose parts overlap: the longest of each."""

    total_ms: float
    tokenize_ms: float
    queue_ms: float
    infer_ms: float


@dataclass(frozen=True, slots=True)
class Scores(Sequence[float]):
    """Scores in the order of the input; as a sequence it is the scores themselves.

    Attributes:
        uncertainty: of a model with an ensemble, the standard deviation of its members' scores, on the same scale; None
            of other models.
        heads: of a model with several heads, raw scores by the name of the head, such as an aspect or a member.
    """

    scores: tuple[float, ...]
    details: tuple[Detail, ...]
    model: ModelIdentity
    scale: Scale
    usage: Usage
    timing: Timing
    uncertainty: tuple[float, ...] | None = None
    heads: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[float]:
        return iter(self.scores)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[float, ...]: ...
    def __getitem__(self, index: int | slice) -> float | tuple[float, ...]:
        return self.scores[index]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison: `probability` that `a` is preferred, `margin` and both raw scores."""

    preferred: Preferred
    probability: float
    margin: float
    score_a: float
    score_b: float


@dataclass(frozen=True, slots=True)
class Comparisons(Sequence[Comparison]):
    """Comparisons in the order of the input; `details` holds two for each, a then b."""

    comparisons: tuple[Comparison, ...]
    details: tuple[Detail, ...]
    model: ModelIdentity
    usage: Usage
    timing: Timing

    def __len__(self) -> int:
        return len(self.comparisons)

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self.comparisons)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Comparison, ...]: ...
    def __getitem__(self, index: int | slice) -> Comparison | tuple[Comparison, ...]:
        return self.comparisons[index]


@dataclass(frozen=True, slots=True)
class Ranking:
    """`order` lists indices of the input, best first; `scores` and `details` are in the order of the input.

    `win_probabilities[i][j]` is the probability that response i is preferred to response j.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    win_probabilities: tuple[tuple[float, ...], ...]
    details: tuple[Detail, ...]
    model: ModelIdentity
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold. None: the server names no such limit."""

    body_bytes: int
    items_per_request: int
    tokens_per_item: int | None = None
    queue_items: int | None = None
    queue_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model. `document` is the server's whole answer: family, licence, precision and so on."""

    model: ModelIdentity
    limits: Limits
    document: Mapping[str, Any]
