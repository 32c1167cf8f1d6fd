"""What is wrong with preference data before it is trained on: duplicates, contradictions, indifference."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from training.data.near_duplicates import near_duplicate_clusters
from training.data.pairs import Pair, pairs_of
from training.data.record import Judgement, PreferenceRecord

MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """How often something was found, and the first places, in words."""

    count: int
    examples: tuple[str, ...] = ()

    def plus(self, place: str) -> "Finding":
        """With one more; the first few are kept as examples."""
        return Finding(self.count + 1, (*self.examples, place)[:MOST_EXAMPLES])


@dataclass(frozen=True)
class HygieneReport:
    """Counts over a data set.

    `exact_duplicates`: judgements that repeat an earlier one: same prompt, texts, votes, margin, aspect and weight.
    `contradictions`: pairs of texts under one prompt won by either side in different judgements on one aspect.
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


def check(records: Iterable[PreferenceRecord]) -> HygieneReport:
    """Look for what `HygieneReport` lists; changes nothing."""
    listed = list(records)
    repeats: list[str] = []
    contradictions: list[str] = []
    seen: dict[Hashable, Pair] = {}
    winners: dict[Hashable, Pair] = {}
    contradicted: set[Hashable] = set()
    judgements = list(pairs_of(listed))
    for pair in judgements:
        key, verdict = pair.key, _verdict(pair)
        if (key, verdict) in seen:
            repeats.append(f"{_place(pair)} repeats {_place(seen[key, verdict])}")
        seen.setdefault((key, verdict), pair)
        direction = pair.direction if pair.in_order else -pair.direction
        key = (key, pair.judgement.aspect)  # to be more helpful and less harmless is no contradiction
        winners.setdefault((key, direction), pair)
        if direction and pair.text_i != pair.text_j and (key, -direction) in winners and key not in contradicted:
            contradicted.add(key)
            contradictions.append(f"{_place(pair)} contradicts {_place(winners[key, -direction])}")
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


class Repeats:
    """Judgements that came before, with the same prompt, the same two texts and the same votes.

    Other votes on a pair are no repeat (`training.data.merge.add_up_votes` puts them together), and
    contradictions stay: which side is right is not for code to say.

    Attributes:
        removed: how many judgements were left out.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()  # hashes alone: there may be millions
        self.removed = 0

    def without(self, record: PreferenceRecord) -> PreferenceRecord | None:
        """The record with what is new in it; None where nothing is."""
        kept: list[Judgement] = []
        for pair in pairs_of([record]):
            verdict = hash((pair.key, _verdict(pair)))
            if verdict not in self._seen:
                self._seen.add(verdict)
                kept.append(pair.judgement)
        self.removed += len(record.judgements) - len(kept)
        if len(kept) == len(record.judgements):
            return record
        return record.model_copy(update={"judgements": kept}) if kept else None


def deduplicate(records: Iterable[PreferenceRecord]) -> Deduplicated:
    """The first of each judgement; see `Repeats`."""
    listed = list(records)
    repeats = Repeats()
    remaining = [new for record in listed if (new := repeats.without(record)) is not None]
    return Deduplicated(remaining, repeats.removed, len(listed) - len(remaining))


def _verdict(pair: Pair) -> Hashable:
    """Votes and terms in the order of the pair's key; of two equal texts, neither is the first."""
    judgement = pair.judgement if pair.in_order else pair.judgement.flipped()
    if pair.text_i == pair.text_j and judgement.i_wins < judgement.j_wins:
        judgement = judgement.flipped()
    return judgement.i_wins, judgement.j_wins, judgement.ties, judgement.terms


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
    return Finding(len(places), tuple(places[:MOST_EXAMPLES]))
