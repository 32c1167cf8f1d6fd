"""What is wrong with preference data before it is trained on: duplicates, contradictions, indifference."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from training.data.near_duplicates import near_duplicate_clusters
from training.data.pairs import Pair, pairs_of
from training.data.record import Judgement, PreferenceRecord

_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """How often something was found, and the first places, in words."""

    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class HygieneReport:
    """Counts over a data set.

    `exact_duplicates`: judgements that repeat an earlier one (same prompt, same two texts, same winner).
    `contradictions`: pairs of texts under one prompt won by either side in different judgements.
    `identical_responses`: judgements of a text against itself. `identical_decided`: those with a winner all
    the same. `near_duplicate_prompts`, `near_duplicate_responses`: distinct texts that are nearly the same as
    another one, counted without the first of each cluster.
    """

    records: int
    judgements: int
    exact_duplicates: Finding
    contradictions: Finding
    identical_responses: Finding
    identical_decided: Finding
    near_duplicate_prompts: Finding
    near_duplicate_responses: Finding

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not any(value.count for value in vars(self).values() if isinstance(value, Finding))


def check(records: Iterable[PreferenceRecord]) -> HygieneReport:
    """Look for what `HygieneReport` lists; changes nothing."""
    listed = list(records)
    repeats: list[str] = []
    contradictions: list[str] = []
    seen: dict[Hashable, Pair] = {}
    contradicted: set[Hashable] = set()
    judgements = list(pairs_of(listed))
    for pair in judgements:
        key, direction = _key(pair)
        if (key, direction) in seen:
            repeats.append(f"{_place(pair)} repeats {_place(seen[key, direction])}")
        seen.setdefault((key, direction), pair)
        if direction and pair.text_i != pair.text_j and (key, -direction) in seen and key not in contradicted:
            contradicted.add(key)
            contradictions.append(f"{_place(pair)} contradicts {_place(seen[key, -direction])}")
    identical = [pair for pair in judgements if pair.text_i == pair.text_j]
    return HygieneReport(
        records=len(listed),
        judgements=len(judgements),
        exact_duplicates=_finding(repeats),
        contradictions=_finding(contradictions),
        identical_responses=_finding([_place(pair) for pair in identical]),
        identical_decided=_finding([_place(pair) for pair in identical if pair.direction]),
        near_duplicate_prompts=_near_duplicates([(record.id, _prompt_text(record)) for record in listed]),
        near_duplicate_responses=_near_duplicates(
            [(record.id, text) for record in listed for text in record.responses]
        ),
    )


@dataclass(frozen=True)
class Deduplicated:
    """Records without repeated judgements, and how much went: `records_removed` had nothing else to say."""

    records: list[PreferenceRecord]
    judgements_removed: int
    records_removed: int


def deduplicate(records: Iterable[PreferenceRecord], *, repeats: Literal["drop", "merge"] = "drop") -> Deduplicated:
    """Keep the first of the judgements with the same prompt, the same two texts and the same winner.

    `drop` forgets the votes of the repeats (copied rows); `merge` adds them to the first (independent
    answers), as `i_wins`, `j_wins` and `ties` of the texts. Contradictions stay: which side is right is not
    for code to say.
    """
    listed = list(records)
    first: dict[Hashable, tuple[int, int]] = {}
    kept: list[list[Judgement]] = []
    for number, record in enumerate(listed):
        kept.append([])
        for pair in pairs_of([record]):
            place = first.setdefault(_key(pair), (number, len(kept[number])))
            if place == (number, len(kept[number])):
                kept[number].append(pair.judgement)
            elif repeats == "merge":
                owner, position = place
                target = kept[owner][position]
                kept[owner][position] = _with_votes_of(target, listed[owner].responses[target.i], pair)
    remaining = [
        record
        if len(judgements) == len(record.judgements) and repeats == "drop"
        else record.model_copy(update={"judgements": judgements})
        for record, judgements in zip(listed, kept, strict=True)
        if judgements
    ]
    before = sum(len(record.judgements) for record in listed)
    return Deduplicated(
        records=remaining,
        judgements_removed=before - sum(len(judgements) for judgements in kept),
        records_removed=len(listed) - len(remaining),
    )


def _key(pair: Pair) -> tuple[Hashable, int]:
    """The prompt with the two texts in a fixed order, and the direction in that order."""
    if pair.text_i == pair.text_j:  # No order tells the two apart, so neither does the direction.
        return (pair.record.prompt_key, pair.text_i, pair.text_j), abs(pair.direction)
    if pair.text_i < pair.text_j:
        return (pair.record.prompt_key, pair.text_i, pair.text_j), pair.direction
    return (pair.record.prompt_key, pair.text_j, pair.text_i), -pair.direction


def _with_votes_of(target: Judgement, target_text: str, pair: Pair) -> Judgement:
    """`target` with the votes of a pair of the same two texts, whichever of them is the pair's first."""
    same_order = target_text == pair.text_i
    if pair.text_i == pair.text_j:
        same_order = (target.i_wins >= target.j_wins) == (pair.judgement.i_wins >= pair.judgement.j_wins)
    added = pair.judgement if same_order else pair.judgement.flipped()
    return target.model_copy(
        update={
            "i_wins": target.i_wins + added.i_wins,
            "j_wins": target.j_wins + added.j_wins,
            "ties": target.ties + added.ties,
        }
    )


def _near_duplicates(named: Sequence[tuple[str, str]]) -> Finding:
    owners: dict[str, str] = {}
    for record_id, text in named:
        owners.setdefault(text, record_id)
    texts = list(owners)
    found = [
        f"{owners[texts[other]]} is nearly {owners[texts[members[0]]]}: {texts[other][:80]!r}"
        for members in near_duplicate_clusters(texts)
        for other in members[1:]
    ]
    return _finding(found)


def _prompt_text(record: PreferenceRecord) -> str:
    return "\n\n".join(turn.content for turn in record.messages)


def _place(pair: Pair) -> str:
    return f"{pair.record.id} ({pair.judgement.i}, {pair.judgement.j})"


def _finding(places: Sequence[str]) -> Finding:
    return Finding(len(places), tuple(places[:_EXAMPLES]))
