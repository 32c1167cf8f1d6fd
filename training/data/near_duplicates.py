"""Texts that are nearly the same: MinHash over word shingles, with buckets instead of all pairs.

Broder 1997 (resemblance of documents) and the banding of Indyk & Motwani; every candidate is checked by its
exact Jaccard similarity, so a reported cluster holds no false link.
"""

import re
import zlib
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from training.data.components import components

_SHINGLE_WORDS = 3
_BANDS, _ROWS = (
    16,
    4,
)  # A pair of similarity 0.8 shares a bucket with probability 0.9998, one of 0.3 with 0.12.
_WORD = re.compile(r"\w+")


def near_duplicate_clusters(texts: Sequence[str], threshold: float = 0.8) -> list[list[int]]:
    """Clusters (two or more ascending indices) of texts whose Jaccard similarity is at least `threshold`.

    Similarity is that of the sets of three-word shingles, ignoring case and punctuation. The clusters do not
    depend on the order of the texts. Time is linear in the length of all texts: inside a bucket a text is
    compared with the bucket's first text and with its predecessor only, so a link between two others may be
    missed. A text without words is like no other.
    """
    shingles = [_shingles(text) for text in texts]
    order = sorted((index for index in range(len(texts)) if shingles[index]), key=lambda index: texts[index])
    buckets: dict[Hashable, list[int]] = {}
    for index in order:
        for band, key in enumerate(_band_keys(shingles[index])):
            buckets.setdefault((band, key), []).append(index)
    candidates = {
        pair
        for members in buckets.values()
        for place in range(1, len(members))
        for pair in ((members[0], members[place]), (members[place - 1], members[place]))
    }
    links: list[list[Hashable]] = [[] for _ in texts]
    for pair in candidates:
        if jaccard(shingles[pair[0]], shingles[pair[1]]) >= threshold:
            links[pair[0]].append(pair)
            links[pair[1]].append(pair)
    clusters: dict[int, list[int]] = {}
    for index, label in enumerate(components(links)):
        clusters.setdefault(label, []).append(index)
    return [members for members in clusters.values() if len(members) > 1]


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of all shingles that both have, in [0, 1]."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


def _shingles(text: str) -> frozenset[str]:
    words = _WORD.findall(text.casefold())
    if len(words) <= _SHINGLE_WORDS:
        return frozenset({" ".join(words)} if words else ())
    return frozenset(
        " ".join(words[start : start + _SHINGLE_WORDS]) for start in range(len(words) - _SHINGLE_WORDS + 1)
    )


def _multipliers() -> npt.NDArray[np.uint64]:
    return np.random.default_rng(1997).integers(2**63, size=_BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)


_MULTIPLIERS = _multipliers()


def _band_keys(shingles: frozenset[str]) -> list[bytes]:
    """The MinHash signature cut into bands; multiply-shift hashing of CRC-32 values, modulo 2**64."""
    codes = np.array([zlib.crc32(shingle.encode()) for shingle in shingles], dtype=np.uint64) + np.uint64(1)
    signature = ((codes[:, None] * _MULTIPLIERS) >> np.uint64(32)).min(axis=0)
    return [band.tobytes() for band in signature.reshape(_BANDS, _ROWS)]
