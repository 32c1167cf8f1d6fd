"""What a test set shares with the training set."""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from training.data.hygiene import MOST_EXAMPLES, Finding
from training.data.near_duplicates import near_duplicate_clusters
from training.data.pairs import pairs_of
from training.data.record import PreferenceRecord, normalise

Shared = Literal["prompt", "response", "pair", "sentence"]
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class LeakageReport:
    """How many of `records` test records share what with training; case and white space are ignored.

    `prompt`: the prompt. `near_prompt`: a prompt nearly the same as one in training, but not equal.
    `response`: a response. `pair`: the prompt and both texts of a judgement. `sentence`: a sentence of a
    response.
    """

    records: int
    prompt: Finding
    near_prompt: Finding
    response: Finding
    pair: Finding
    sentence: Finding


def check_leakage(train: Iterable[PreferenceRecord], test: Iterable[PreferenceRecord]) -> LeakageReport:
    """Count the test records that share something with the training records."""
    train, test = list(train), list(test)
    return LeakageReport(
        records=len(test),
        prompt=_finding(leaking(train, test, "prompt")),
        near_prompt=_finding(_near_prompts(train, test)),
        response=_finding(leaking(train, test, "response")),
        pair=_finding(leaking(train, test, "pair")),
        sentence=_finding(leaking(train, test, "sentence")),
    )


def leaking(
    train: Iterable[PreferenceRecord], test: Iterable[PreferenceRecord], kind: Shared
) -> list[PreferenceRecord]:
    """The test records that share a prompt, a response, a pair or a sentence of a response with training."""
    known = {trait for record in train for trait in _TRAITS[kind](record)}
    return [record for record in test if not known.isdisjoint(_TRAITS[kind](record))]


def learnt_prompts(
    trained: Iterable[PreferenceRecord], test: Iterable[PreferenceRecord], *, of_one_run: bool = True
) -> int:
    """How many prompts of the test, those of one group counting once, a model that has learnt `trained` knows.

    Arguments as of `shared_with`.
    """
    knows = shared_with(trained, of_one_run=of_one_run)
    return len({record.split_key for record in test if knows(record)})


def shared_with(others: Iterable[PreferenceRecord], *, of_one_run: bool = True) -> Callable[[PreferenceRecord], bool]:
    """Whether a record shares a prompt, its dialogue or group, or, word for word, a judged pair with one of `others`.

    Args:
        others: compared with.
        of_one_run: groups have their names from one hand; else those of two sources are two, whatever their names.
    """
    others = list(others)
    kinds: tuple[Shared, ...] = ("prompt", "pair")
    known = {kind: {trait for record in others for trait in _TRAITS[kind](record)} for kind in kinds}

    def together(record: PreferenceRecord) -> Hashable:
        return record.split_key if of_one_run or record.group is None else (record.source, record.split_key)

    keys = {together(record) for record in others}

    def shares(record: PreferenceRecord) -> bool:
        if not keys:  # nothing is held out by name, and millions of records may be asked about
            return False
        return together(record) in keys or any(not known[kind].isdisjoint(_TRAITS[kind](record)) for kind in kinds)

    return shares


def sentences(text: str) -> set[str]:
    """The sentences of a text, for comparison only; a text ends where `.`, `!` or `?` meets white space."""
    return {normalise(sentence) for sentence in _SENTENCE_END.split(text.strip()) if sentence}


def _prompts(record: PreferenceRecord) -> Iterator[Hashable]:
    if record.has_prompt:
        yield record.loose_prompt_key


def _responses(record: PreferenceRecord) -> Iterator[Hashable]:
    # Empty responses are no trait: nothing is learnt by having seen one.
    return (text for text in map(normalise, record.responses) if text)


def _pairs(record: PreferenceRecord) -> Iterator[Hashable]:
    for pair in pairs_of([record]):
        yield record.loose_prompt_key, frozenset((normalise(pair.text_i), normalise(pair.text_j)))


def _sentences(record: PreferenceRecord) -> Iterator[Hashable]:
    return (sentence for text in record.responses for sentence in sentences(text))


_TRAITS: dict[Shared, Callable[[PreferenceRecord], Iterator[Hashable]]] = {
    "prompt": _prompts,
    "response": _responses,
    "pair": _pairs,
    "sentence": _sentences,
}


def _near_prompts(train: list[PreferenceRecord], test: list[PreferenceRecord]) -> list[PreferenceRecord]:
    """Test records whose prompt is clustered with a training prompt and equals none."""
    seen = {_prompt(record) for record in train}
    fresh = {_prompt(record) for record in test} - seen
    texts = [*sorted(seen), *sorted(fresh)]
    near: set[str] = set()
    for members in near_duplicate_clusters(texts):
        if members[0] < len(seen):
            near.update(texts[member] for member in members if member >= len(seen))
    return [record for record in test if _prompt(record) in near]


def _prompt(record: PreferenceRecord) -> str:
    return normalise("\n\n".join(turn.content for turn in record.messages))


def _finding(records: list[PreferenceRecord]) -> Finding:
    return Finding(len(records), tuple(record.id for record in records[:MOST_EXAMPLES]))
