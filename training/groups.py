"""Which responses of a large prompt one step sees together, so that many of its judgements are learnt from."""

import random
from collections import Counter
from collections.abc import Sequence

from training.data.record import Judgement

Pair = tuple[int, int]


def compared_groups(
    judgements: Sequence[Judgement], size: int, generator: random.Random, count: int | None = None
) -> list[list[int]]:
    """Groups of at most `size` judged responses, each with a judgement, that cover many judgements.

    Greedy: a group begins with a random judgement that is not covered yet and takes the response that covers most
    of the others, or both ends of one, until it is full or covers them all. There are so many groups as would hold
    each judged response once, or fewer if they cover everything; a response is in several where that covers more.

    Args:
        judgements: of one prompt.
        size: the most responses of a group, >= 2.
        generator: of beginnings and of choices between equals.
        count: make exactly so many groups; when all is covered, the next ones begin again.
    """
    pairs = Counter((min(j.i, j.j), max(j.i, j.j)) for j in judgements)
    judged = {response for pair in pairs for response in pair}
    most = -(-len(judged) // size) if count is None else count
    groups: list[list[int]] = []
    uncovered: Counter[Pair] = Counter(pairs)
    while len(groups) < most:
        if not uncovered:
            if count is None:
                break
            uncovered = Counter(pairs)
        groups.append(_grow(uncovered, size, generator))
        members = set(groups[-1])
        uncovered = Counter({pair: number for pair, number in uncovered.items() if not members.issuperset(pair)})
    return groups


def _grow(uncovered: Counter[Pair], size: int, generator: random.Random) -> list[int]:
    """One group over the uncovered pairs, in ascending order."""
    order = list(uncovered)
    generator.shuffle(order)
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for i, j in order:
        neighbours.setdefault(i, []).append((j, uncovered[i, j]))
        neighbours.setdefault(j, []).append((i, uncovered[i, j]))
    members: set[int] = set()
    gains: Counter[int] = Counter()

    def take(response: int) -> None:
        members.add(response)
        gains.pop(response, None)
        for other, number in neighbours[response]:
            if other not in members:
                gains[other] += number

    for i, j in order:
        if not members.isdisjoint((i, j)) or len(members) + 2 > size:
            continue
        take(i)
        take(j)
        while gains and len(members) < size:
            take(max(gains, key=gains.__getitem__))  # of equals the first, and the order is random
    return sorted(members)


def covered(judgements: Sequence[Judgement], groups: Sequence[Sequence[int]]) -> int:
    """How many judgements have both responses in one of the groups."""
    sets = [set(group) for group in groups]
    return sum(any(judgement.i in group and judgement.j in group for group in sets) for judgement in judgements)
