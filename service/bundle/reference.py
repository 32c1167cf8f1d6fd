"""Held-out pairs with the scores that the trained module gives them: what a server checks its own numbers against.

A graph computed in a lower precision is judged on real pairs and on the machine that will serve it. A bundle need not
have them; a lower precision is then served only where it is asked for by name, and said not to be checked.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

LEAST_PAIRS = 32
"""Fewer say little: noise of 0.15 standard deviations would pass with 8 pairs one time in seven."""

Ids = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class ReferencePair(BaseModel):
    """Two responses to one prompt.

    Attributes:
        first, second: token ids of the items, as the text format gives them.
        preference: share of the votes for the first, from 0 to 1.
        scores: raw float32 rewards of the trained module.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: Ids
    second: Ids
    preference: float = Field(ge=0, le=1)
    scores: tuple[FiniteFloat, FiniteFloat]


class Reference(BaseModel):
    """The pairs of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    pairs: tuple[ReferencePair, ...] = Field(min_length=1)
