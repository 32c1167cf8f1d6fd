"""Splits that do not leak: grouped, decided by a hash, and stable when data is added."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from training.data.components import components
from training.data.record import PreferenceRecord


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, each in the order in which its records were given."""

    train: Sequence[PreferenceRecord]
    validation: Sequence[PreferenceRecord]
    test: Sequence[PreferenceRecord]


def split(
    records: Iterable[PreferenceRecord],
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Splits:
    """Divide records into train, validation and test; `fractions` are their expected shares of the groups.

    A record goes where the SHA-256 of the seed and its `split_key` puts it, so the order of the records does
    not matter and new records do not move the old ones. Records that share a prompt but belong to different
    groups are linked, and all their groups go where the least of their keys goes: only there can a new record
    move old ones. Shares are expectations: few or uneven groups may miss them by much, and leave a part
    empty. Raises `ValueError` if the fractions are not shares that add up to 1.
    """
    if any(not 0 <= fraction <= 1 for fraction in fractions) or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be three shares in [0, 1] that add up to 1, not {fractions}")
    listed = list(records)
    parts: tuple[list[PreferenceRecord], ...] = ([], [], [])
    for record, key in zip(listed, _linked_keys(listed), strict=True):
        parts[part_of(key, fractions, seed)].append(record)
    return Splits(*parts)


def _linked_keys(records: Sequence[PreferenceRecord]) -> list[str]:
    """The key that decides for each record: the least `split_key` of all that it is linked with."""
    keys = [record.split_key for record in records]
    links = [
        {key, record.loose_prompt_key} if record.has_prompt else {key}
        for record, key in zip(records, keys, strict=True)
    ]
    labels = components(links)
    least: dict[int, str] = {}
    for label, key in zip(labels, keys, strict=True):
        least[label] = min(key, least.get(label, key))
    return [least[label] for label in labels]


def part_of(key: str, fractions: tuple[float, float, float], seed: int) -> int:
    """Where a `split_key` goes: 0 for training, 1 for validation, 2 for the test."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    # 53 bits are what a float holds; the draw is in [0, 1).
    draw = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    edge = 0.0
    for part, fraction in enumerate(fractions):
        edge += fraction
        if draw < edge:
            return part
    # Reached only where rounding leaves the last edge below 1.
    return max(part for part, fraction in enumerate(fractions) if fraction > 0)
