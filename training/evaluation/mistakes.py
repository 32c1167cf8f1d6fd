"""The pairs on which the model is surest and wrong, for people to read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from training.encoding import Example
from training.evaluation.evaluate import JudgedPairs

MOST_CHARACTERS = 2000
"""Of a text that is shown; longer ones keep their beginning and their end."""


@dataclass(frozen=True)
class Mistake:
    """One pair: texts, votes for each side, and the probability that the model gives to what people preferred.

    Attributes:
        aspect: that it was judged on, if not all in all.
        cut: whether the model saw all of both texts, with the prompt.
    """

    record: str
    source: str
    aspect: str | None
    cut: bool
    prompt: str
    preferred: str
    rejected: str
    votes_for: float
    votes_against: float
    ties: float
    probability: float


def hardest_mistakes(
    examples: Sequence[Example], decided: JudgedPairs, temperature: float, count: int = 12
) -> list[Mistake]:
    """Wrongly ordered pairs, the surest first, one of a prompt."""
    sign = np.sign(decided.preference - 0.5)
    agreed = decided.margin * sign / temperature  # log-odds that the model gives to what people preferred
    found: list[Mistake] = []
    seen: set[int] = set()
    for place in np.argsort(agreed, kind="stable").tolist():
        if agreed[place] >= 0 or len(found) == count:
            break
        if (cluster := int(decided.cluster[place])) in seen:
            continue
        seen.add(cluster)
        record = examples[decided.example[place]].record
        judgement = record.judgements[decided.judgement[place]]
        first = decided.preference[place] > 0.5
        preferred, rejected = (judgement.i, judgement.j) if first else (judgement.j, judgement.i)
        found.append(
            Mistake(
                record=record.id,
                source=record.source,
                aspect=judgement.aspect,
                cut=any(examples[decided.example[place]].items[side].removed > 0 for side in (preferred, rejected)),
                prompt=shortened("\n\n".join(f"{turn.role}: {turn.content}" for turn in record.messages))
                if record.has_prompt
                else "",
                preferred=shortened(record.responses[preferred]),
                rejected=shortened(record.responses[rejected]),
                votes_for=judgement.i_wins if first else judgement.j_wins,
                votes_against=judgement.j_wins if first else judgement.i_wins,
                ties=judgement.ties,
                probability=float(expit(agreed[place])),
            )
        )
    return found


def shortened(text: str) -> str:
    """The text, or its beginning and end around a note of what was left out."""
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
