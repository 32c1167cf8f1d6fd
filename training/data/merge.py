"""All pairs of a prompt in one record, so that a batch element holds them and the prompt is computed once."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from training.data.pairs import pairs_of
from training.data.record import Judgement, PreferenceRecord

# A response is known by its text, its quality, and which of its record's copies of that text it is: two equal
# responses that were judged against each other stay two.
_Response = tuple[str, str | None, int]


def merge_by_prompt(records: Iterable[PreferenceRecord]) -> list[PreferenceRecord]:
    """One record per prompt: each distinct response once, the votes on a pair summed. No vote is lost.

    Records are merged if they agree in prompt, source, group, category and in whether qualities are named;
    others stay apart (they still fall into one part of a split). Records without a prompt are returned as
    they are. The merged record takes the id of its first record and stands in its place. Judgements of a pair
    are summed where margin, aspect and weight agree and otherwise kept side by side.
    """
    merged: dict[Hashable, list[PreferenceRecord]] = {}
    for number, record in enumerate(records):
        merged.setdefault(merge_key(record) if record.has_prompt else number, []).append(record)
    return [_merge(members) if members[0].has_prompt else members[0] for members in merged.values()]


def add_up_votes(records: Iterable[PreferenceRecord]) -> list[PreferenceRecord]:
    """All votes on a pair of texts under one prompt in one judgement, the first, whatever source they came from.

    Records that differ in source, group or category stay apart, and those that then hold no judgement go: all
    their votes are in another record. Judgements that differ in margin, aspect or weight are kept side by side, and so
    are those of a text against itself, whose sides nothing tells apart.
    """
    listed = list(records)
    first: dict[Hashable, tuple[int, int]] = {}
    kept: list[list[Judgement]] = []
    for number, record in enumerate(listed):
        kept.append([])
        for pair in pairs_of([record]):
            ordered = pair.judgement if pair.in_order else pair.judgement.flipped()
            key = (pair.key, ordered.terms)
            place = (number, len(kept[number]))
            if pair.text_i == pair.text_j or first.setdefault(key, place) == place:
                kept[number].append(pair.judgement)
                continue
            owner, position = first[key]
            target = kept[owner][position]
            in_order = listed[owner].responses[target.i] <= listed[owner].responses[target.j]
            moved = ordered if in_order else ordered.flipped()
            if record.source != listed[owner].source:
                moved = _annotated_from(moved, record.source)
            kept[owner][position] = target.with_votes_of(moved)
    return [
        record if judgements == record.judgements else record.model_copy(update={"judgements": judgements})
        for record, judgements in zip(listed, kept, strict=True)
        if judgements
    ]


def _annotated_from(judgement: Judgement, source: str) -> Judgement:
    """The judgement, whose annotators are those of another source than the record's: both may number theirs alike."""
    named = judgement.annotations and [
        vote if vote.source else vote.model_copy(update={"source": source}) for vote in judgement.annotations
    ]
    return judgement.model_copy(update={"annotations": named})


def merge_key(record: PreferenceRecord) -> Hashable:
    """Equal for records of one prompt that `merge_by_prompt` would merge."""
    return (record.prompt_key, record.source, record.group, record.category, record.qualities is None)


def _merge(members: Sequence[PreferenceRecord]) -> PreferenceRecord:
    places: dict[_Response, int] = {}
    sums: dict[Hashable, Judgement] = {}
    for record in members:
        local = [places.setdefault(response, len(places)) for response in _identities(record)]
        for judgement in record.judgements:
            moved = _move(judgement, local)
            key = (moved.i, moved.j, moved.terms)
            sums[key] = sums[key].with_votes_of(moved) if key in sums else moved
    first = members[0]
    return PreferenceRecord(
        id=first.id,
        prompt=first.prompt,
        responses=[text for text, _, _ in places],
        judgements=list(sums.values()),
        source=first.source,
        group=first.group,
        category=first.category,
        qualities=None if first.qualities is None else [quality or "" for _, quality, _ in places],
    )


def _identities(record: PreferenceRecord) -> list[_Response]:
    qualities: Sequence[str | None] = record.qualities or [None] * len(record.responses)
    copies: Counter[tuple[str, str | None]] = Counter()
    identities: list[_Response] = []
    for text, quality in zip(record.responses, qualities, strict=True):
        identities.append((text, quality, copies[text, quality]))
        copies[text, quality] += 1
    return identities


def _move(judgement: Judgement, places: Sequence[int]) -> Judgement:
    moved = judgement.model_copy(update={"i": places[judgement.i], "j": places[judgement.j]})
    return moved if moved.i < moved.j else moved.flipped()
