"""How each data set is divided: what is learnt from, what chooses weights and temperature, and what is tested."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sklearn.model_selection import GroupKFold

from training.data import Judgement, PreferenceRecord, add_up_votes, merge_by_prompt, public_sets, split
from training.data.leakage import leaking

SIDES_FOR_VALIDATION = 3
APART = 0.2
RESPONSE_FOLDS = 10
_DEVELOPMENT = 1_000_000
"""Seed of the division that recipes are chosen by: another than those that runs have, whose draws it would repeat."""
RESPONSES = ("hh-harmless", "qa-feedback", "pandalm", "autoj")


@dataclass(frozen=True)
class Fold:
    """One division.

    Attributes:
        name: of what is tested.
        train: learnt from.
        validation: chooses the weights.
        calibration: the validation prompts with labels of the kind that the test has; they give the temperature.
        test: never seen before the figures.
    """

    name: str
    train: Sequence[PreferenceRecord]
    validation: Sequence[PreferenceRecord]
    calibration: Sequence[PreferenceRecord]
    test: Sequence[PreferenceRecord]


@lru_cache(maxsize=1)
def _convarg() -> tuple[dict[str, PreferenceRecord], dict[str, PreferenceRecord]]:
    """Votes and strict labels by debate side; the same prompts and responses."""
    path = public_sets.data_folder() / "convarg.jsonl.gz"
    votes, strict = (read(path) for read in (public_sets.convarg, public_sets.convarg_strict))
    return {record.id: record for record in votes}, {record.id: record for record in strict}


def convarg(seed: int) -> list[Fold]:
    """Each of the 32 debate sides held out in turn, as published (Habernal & Gurevych 2016).

    The debate's other side is in training: its question is known, the arguments of the held-out side are not.
    """
    sides = sorted(_convarg()[0])
    return [_sides(side, [other for other in sides if other != side], [side], seed) for side in sides]


def convarg_debates(seed: int) -> list[Fold]:
    """Each of the 16 debates held out in turn with both of its sides: nothing of it is known."""
    return [
        _sides(debate, [side for side in _convarg()[0] if side not in sides], sides, seed)
        for debate, sides in _debates().items()
    ]


def convarg_development(seed: int) -> list[Fold]:
    """Four folds of two debates each within every other debate: recipes are chosen here, and the rest stays unseen."""
    debates = dict(list(_debates().items())[::2])
    names = list(debates)
    folds = []
    for first in range(0, len(names), 2):
        held_out = [side for name in names[first : first + 2] for side in debates[name]]
        rest = [side for sides in debates.values() for side in sides if side not in held_out]
        folds.append(_sides(f"development {first // 2}", rest, held_out, seed))
    return folds


def seen_in_development() -> set[str]:
    """Debate sides that recipes were chosen with."""
    return {side for fold in convarg_development(0) for part in (fold.train, fold.validation) for side in _ids(part)}


def _debates() -> dict[str, list[str]]:
    debates: dict[str, list[str]] = {}
    for side, record in sorted(_convarg()[0].items()):
        debates.setdefault(record.category or "", []).append(side)
    return dict(sorted(debates.items()))


def _sides(name: str, known: Sequence[str], held_out: Sequence[str], seed: int) -> Fold:
    votes, strict = _convarg()
    validation = random.Random(f"{seed}:{name}").sample(list(known), SIDES_FOR_VALIDATION)
    return Fold(
        name=name,
        train=[votes[side] for side in known if side not in validation],
        validation=[votes[side] for side in validation],
        calibration=[strict[side] for side in validation],
        test=[strict[side] for side in held_out],
    )


def _ids(records: Sequence[PreferenceRecord]) -> list[str]:
    return [record.id for record in records]


@lru_cache(maxsize=2)
def _ethics(part: str) -> list[PreferenceRecord]:
    return public_sets.ethics(public_sets.data_folder() / f"ethics-util-{part}.jsonl.gz")


def ethics(seed: int) -> list[Fold]:
    """The published training and test files; a twentieth of the training scenarios, whole families, chooses weights."""
    return [_divided("ethics test", _ethics("train"), _ethics("test"), 0.05, seed)]


def ethics_development(seed: int) -> list[Fold]:
    """Within the training file: a tenth of its scenarios in the place of the test."""
    parts = split(_ethics("train"), (0.9, 0.1, 0.0), _DEVELOPMENT)
    return [_divided("development", parts.train, parts.validation, 0.05, seed)]


def ethics_repeated() -> set[str]:
    """Test rows that share a sentence with a training row, a third of them: without them is what generalises."""
    return {record.id for record in leaking(_ethics("train"), _ethics("test"), "sentence")}


def ethics_apart() -> set[str]:
    """Test rows whose two scenarios have less than a fifth of their words in common; of training rows next to none."""
    return {record.id for record in _ethics("test") if _in_common(*record.responses) < APART}


def _in_common(one: str, other: str) -> float:
    """Share of the words of two texts that both have (Jaccard)."""
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (one, other))
    return len(words & others) / max(1, len(words | others))


@lru_cache(maxsize=1)
def _responses() -> list[PreferenceRecord]:
    folder = public_sets.data_folder()
    read = [
        record
        for name in RESPONSES
        for record in public_sets.PUBLIC_SETS[f"{name}.jsonl.gz"](folder / f"{name}.jsonl.gz")
    ]
    return add_up_votes(merge_by_prompt(read))


def responses(seed: int) -> list[Fold]:
    """The four sets of LLM responses together, in 10 folds grouped by prompt."""
    records = _responses()
    groups = [record.split_key for record in records]
    folds = GroupKFold(n_splits=RESPONSE_FOLDS, shuffle=True, random_state=0).split(records, groups=groups)
    return [
        _divided(f"fold {number}", [records[k] for k in known], [records[k] for k in test], 0.05, seed)
        for number, (known, test) in enumerate(folds)
    ]


def responses_development(seed: int) -> list[Fold]:
    """Within what the first fold knows, so that its test alone stays unseen: a tenth of it in the place of the test."""
    first = responses(seed)[0]
    parts = split([*first.train, *first.validation], (0.9, 0.1, 0.0), _DEVELOPMENT)
    return [_divided("development", parts.train, parts.validation, 0.05, seed)]


def _divided(
    name: str, known: Sequence[PreferenceRecord], test: Sequence[PreferenceRecord], share: float, seed: int
) -> Fold:
    parts = split(known, (1 - share, share, 0.0), seed)
    return Fold(name, parts.train, parts.validation, parts.validation, test)


def with_hard_labels(fold: Fold) -> Fold:
    """The fold with training labels as most trainers keep them: the winner by majority, and no ties."""
    train = [record.model_copy(update={"judgements": _winners(record)}) for record in fold.train]
    return replace(fold, train=[record for record in train if record.judgements])


def _winners(record: PreferenceRecord) -> list[Judgement]:
    return [
        Judgement(
            i=judgement.i,
            j=judgement.j,
            i_wins=float(judgement.soft_label > 0.5),
            j_wins=float(judgement.soft_label < 0.5),
        )
        for judgement in record.judgements
        if judgement.soft_label != 0.5
    ]


PROTOCOLS: Mapping[str, Callable[[int], list[Fold]]] = {
    "convarg": convarg,
    "convarg_debates": convarg_debates,
    "convarg_development": convarg_development,
    "ethics": ethics,
    "ethics_development": ethics_development,
    "responses": responses,
    "responses_development": responses_development,
}
"""Folds by name, each for a seed that draws what chooses the weights."""

FILES = (
    "convarg.jsonl.gz",
    "ethics-util-train.jsonl.gz",
    "ethics-util-test.jsonl.gz",
    *(f"{name}.jsonl.gz" for name in RESPONSES),
)
"""What the public data consist of."""
