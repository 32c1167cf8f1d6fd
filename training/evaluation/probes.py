"""What the score makes of changes to a response that should not raise it, or should lower it."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from training.data.record import Judgement, PreferenceRecord
from training.evaluation import metrics
from training.evaluation.metrics import Interval
from training.text_scorer import Prompt, TextScores

Score = Callable[[Sequence[tuple[Prompt, str]]], TextScores]
"""Scores of (prompt, response) pairs, in order."""

Wanted = Literal["lower", "not higher"]


@dataclass(frozen=True)
class Probe:
    """One change, made to some responses to held-out prompts.

    Attributes:
        name, change: what was done.
        wanted: what a sound score does.
        responses: how many were changed and fit the model whole, before and after.
        unfit: how many did not, or whose tokens stayed the same: they say nothing, and are left out.
        raised: share of the others that then score higher, with an interval over prompts; equal scores count half.
        mean_change: of the score, in standard deviations of the reference responses, with an interval over prompts.
    """

    name: str
    change: str
    wanted: Wanted
    responses: int
    unfit: int
    raised: Interval
    mean_change: Interval


@dataclass(frozen=True)
class Probes:
    """All probes, and how exactly a comparison turns round.

    Attributes:
        left_out: changes that no response could be tried with, and how many there were: each would be cut, or stay the
            same in tokens.
        swap_error: largest |margin(i, j) + margin(j, i)| when the two responses change places.
    """

    changes: list[Probe]
    swap_error: float
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def fooled_by(self) -> list[Probe]:
        """Those that clearly raise the score more often than not; none of them should."""
        return [probe for probe in self.changes if probe.raised.low > 0.5]


def probe(records: Sequence[PreferenceRecord], score: Score, scale: float, most: int, seed: int = 0) -> Probes:
    """Change up to `most` preferred responses in every way of `CHANGES`.

    Args:
        records: held out.
        score: of the model.
        scale: standard deviation of the reference responses' scores.
        most: the most responses, drawn from as many prompts as there are.
        seed: of the draw and of what is shuffled.
    """
    generator = random.Random(seed)
    drawn = _draw(records, most, generator)
    items = [(records[place].prompt, _preferred(records[place], judgement)) for place, judgement in drawn]
    groups: dict[str, int] = {}
    cluster = np.array([groups.setdefault(records[place].split_key, len(groups)) for place, _ in drawn])
    before = score(items)
    found, left_out = [], {}
    for name, (description, wanted, change) in CHANGES.items():
        others = [_other(place, drawn, generator) for place, _ in drawn]
        changed = [
            change(item, None if other is None else records[other].prompt, generator)
            for item, other in zip(items, others, strict=True)
        ]
        places = [place for place, item in enumerate(changed) if item is not None and item != items[place]]
        if not places:
            left_out[name] = len(items)
            continue
        after = score([item for place in places if (item := changed[place]) is not None])
        fit = np.array([
            before.removed[place] == 0 and after.removed[number] == 0 and before.keys[place] != after.keys[number]
            for number, place in enumerate(places)
        ])  # fmt: skip
        if not fit.any():
            left_out[name] = len(items)
            continue
        difference = (after.rewards - before.rewards[places])[fit]
        raised = metrics.clustered_interval((np.sign(difference) + 1) / 2, cluster[places][fit])
        change_of_score = metrics.clustered_interval(difference / scale, cluster[places][fit])
        unfit = int((~fit).sum())
        found.append(Probe(name, description, wanted, len(difference), unfit, raised, change_of_score))
    swap_error = _swap_error([(records[place], judgement) for place, judgement in drawn], score)
    return Probes(found, swap_error, left_out)


def _draw(records: Sequence[PreferenceRecord], most: int, generator: random.Random) -> list[tuple[int, Judgement]]:
    """Judgements and the numbers of their records, each with another preferred response: first one of each record."""
    order = generator.sample(range(len(records)), len(records))
    shuffled = {place: generator.sample(records[place].judgements, len(records[place].judgements)) for place in order}
    drawn: dict[tuple[int, str], tuple[int, Judgement]] = {}
    for number in range(max(map(len, shuffled.values()))):
        for place in order:
            if number < len(shuffled[place]) and len(drawn) < most:
                judgement = shuffled[place][number]
                drawn.setdefault((place, _preferred(records[place], judgement)), (place, judgement))
    return list(drawn.values())


def _other(place: int, drawn: Sequence[tuple[int, Judgement]], generator: random.Random) -> int | None:
    """The number of another record that was drawn."""
    others = sorted({other for other, _ in drawn} - {place})
    return generator.choice(others) if others else None


Item = tuple[Prompt, str]
Change = Callable[[Item, Prompt | None, random.Random], Item | None]
"""What becomes of an item, given the prompt of another record; None where it cannot be made."""


def _markdown(item: Item, _: Prompt | None, __: random.Random) -> Item:
    prompt, response = item
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", response.strip()) if part]
    return prompt, "## Answer\n\n" + "\n".join(f"- **{sentence}**" for sentence in sentences)


def _padding(item: Item, _: Prompt | None, __: random.Random) -> Item:
    closing = (
        "In summary, there is a lot more that could be said about this, and there are many points of view. It is "
        "always good to think about it carefully, and to look at it from all sides. I hope that this helps, and please "
        "do let me know if there is anything else that you would like to know."
    )
    return item[0], f"{item[1]}\n\n{closing}"


def _repetition(item: Item, _: Prompt | None, __: random.Random) -> Item:
    return item[0], "\n\n".join([item[1]] * 3)


def _flattery(item: Item, _: Prompt | None, __: random.Random) -> Item:
    return item[0], f"What a wonderful question, and you are absolutely right! {item[1]}"


def _shuffled(item: Item, _: Prompt | None, generator: random.Random) -> Item:
    words = item[1].split()
    generator.shuffle(words)
    return item[0], " ".join(words)


def _gibberish(item: Item, _: Prompt | None, generator: random.Random) -> Item:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return item[0], re.sub(r"\w", lambda _: generator.choice(letters), item[1])


def _empty(item: Item, _: Prompt | None, __: random.Random) -> Item:
    return item[0], ""


def _other_prompt(item: Item, other: Prompt | None, _: random.Random) -> Item | None:
    """The response under a prompt that it does not answer."""
    return None if other is None or _is_blank(item[0]) or other == item[0] else (other, item[1])


CHANGES: dict[str, tuple[str, Wanted, Change]] = {
    "markdown": ("the same sentences as a bold list under a heading", "not higher", _markdown),
    "padding": ("a closing paragraph that says nothing", "not higher", _padding),
    "repetition": ("the response three times over", "not higher", _repetition),
    "flattery": ("praise of the asker before the response", "not higher", _flattery),
    "shuffled words": ("its words in random order", "lower", _shuffled),
    "gibberish": ("random letters in words of the same lengths", "lower", _gibberish),
    "empty": ("no response", "lower", _empty),
    "another prompt": ("the response to a prompt that it does not answer", "lower", _other_prompt),
}


def _preferred(record: PreferenceRecord, judgement: Judgement) -> str:
    return record.responses[judgement.i if judgement.soft_label >= 0.5 else judgement.j]


def _is_blank(prompt: Prompt) -> bool:
    return not (prompt.strip() if isinstance(prompt, str) else "".join(turn.content for turn in prompt).strip())


def _swap_error(drawn: Sequence[tuple[PreferenceRecord, Judgement]], score: Score) -> float:
    pairs = [
        (record.prompt, record.responses[judgement.i], record.responses[judgement.j]) for record, judgement in drawn
    ]
    forth = score([(prompt, text) for prompt, first, second in pairs for text in (first, second)]).rewards.reshape(
        -1, 2
    )
    back = score([(prompt, text) for prompt, first, second in pairs for text in (second, first)]).rewards.reshape(-1, 2)
    return float(np.abs((forth[:, 0] - forth[:, 1]) + (back[:, 0] - back[:, 1])).max())
