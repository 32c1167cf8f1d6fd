"""Held-out pairs in a bundle: read if they are listed, refused if they are not this model's."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.bundle.reader import read_bundle
from tests.pocket import VOCABULARY_SIZE, reseal
from tests.service.bundle.tampering import refuse

PAIR: dict[str, Any] = {"first": [97, 98], "second": [99], "preference": 1.0, "scores": [0.5, -0.5]}


def add(folder: Path, **fields: Any) -> None:
    (folder / "reference.json").write_text(json.dumps({"version": 1, "pairs": [PAIR, PAIR | fields]}))
    reseal(folder)


def test_a_bundle_may_have_none(folder: Path) -> None:
    assert read_bundle(folder).reference is None


def test_they_are_read(folder: Path) -> None:
    add(folder)
    reference = read_bundle(folder).reference
    assert reference is not None
    assert [pair.model_dump(mode="json") for pair in reference.pairs] == [PAIR, PAIR]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"first": []}, "pairs.1.first: "),
        ({"first": [-1]}, "pairs.1.first.0: "),
        ({"preference": 1.1}, "pairs.1.preference: "),
        ({"scores": [0.5, None]}, "pairs.1.scores.1: "),
        ({"text": "x"}, "pairs.1.text: "),
        ({"second": [VOCABULARY_SIZE]}, "pairs.1: no item of this model"),
        ({"second": [97] * 65}, "pairs.1: no item of this model"),
    ],
)
def test_what_is_not_this_model_s_is_refused(folder: Path, fields: dict[str, Any], reason: str) -> None:
    add(folder, **fields)
    refuse(folder, "reference.json", reason)


def test_they_may_not_lie_there_unlisted(folder: Path) -> None:
    (folder / "reference.json").write_text(json.dumps({"version": 1, "pairs": [PAIR]}))
    refuse(folder, "reference.json", "is not listed in bundle.json")
