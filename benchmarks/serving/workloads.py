"""The raced work: real texts, cut to stated lengths under a seed, as requests that every peer gets alike.

No two requests of a workload share a text, and no round repeats one of an earlier round: a cache of prefixes or scores
finds what the workload shares on purpose, and nothing else.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

Cut = Callable[[str, int], str]
"""The beginning of a text that has at most so many tokens."""
Count = Callable[[str], int]
"""Tokens of a text."""


@dataclass(frozen=True)
class Request:
    """What one caller asks for at once: pairs of prompt and response, in order."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def prompt(self) -> str | None:
        """The prompt, if all pairs have the same."""
        prompts = {prompt for prompt, _ in self.pairs}
        return prompts.pop() if len(prompts) == 1 else None

    @property
    def responses(self) -> tuple[str, ...]:
        """The responses in order."""
        return tuple(response for _, response in self.pairs)


@dataclass(frozen=True)
class Texts:
    """Where requests are cut from.

    Attributes:
        singles: real prompts, each with one real response to it.
        count, cut: of the raced model's tokenizer.
    """

    singles: Sequence[tuple[str, str]]
    count: Count
    cut: Cut


@dataclass(frozen=True)
class Workload:
    """A named kind of work.

    Attributes:
        name: as given to `--workloads`.
        connections: callers that each wait for their reply before they ask again (closed loop).
        requests, quick_requests: how many make one round.
        longest: tokens of prompt and response together; 0 where they are cut to fit the model.
        make: endless requests from texts and a generator.
    """

    name: str
    connections: int
    requests: int
    quick_requests: int
    longest: int
    make: Callable[[Texts, random.Random], Iterator[Request]]

    def build(self, texts: Texts, seed: int, rounds: int, quick: bool) -> list[list[Request]]:
        """The requests of each round; the same for the same texts, seed and numbers."""
        made = self.make(texts, random.Random(f"{self.name} {seed}"))
        return [list(itertools.islice(made, self.round_size(quick))) for _ in range(rounds)]

    def round_size(self, quick: bool) -> int:
        """Requests of one round."""
        return self.quick_requests if quick else self.requests


class _Stream:
    """Texts of an exact token length out of real ones, joined where one is too short; each begins elsewhere."""

    def __init__(self, sources: Sequence[str], texts: Texts, generator: random.Random) -> None:
        self._texts = texts
        self._order = list(sources)
        generator.shuffle(self._order)
        self._next = itertools.cycle(self._order)
        self._number = itertools.count()

    def take(self, tokens: int) -> str:
        text = f"{next(self._number)}. {next(self._next)}"
        while self._texts.count(text) < tokens:
            text = f"{text}\n\n{next(self._next)}"
        return self._texts.cut(text, tokens)


def _groups(texts: Texts, generator: random.Random, *, responses: int, prompt: int, response: int) -> Iterator[Request]:
    """One prompt of `prompt` tokens with `responses` responses of `response` tokens."""
    prompts = _Stream([text for text, _ in texts.singles], texts, generator)
    answers = _Stream([text for _, text in texts.singles], texts, generator)
    while True:
        asked = prompts.take(prompt)
        yield Request(tuple((asked, answers.take(response)) for _ in range(responses)))


def _mixed(texts: Texts, generator: random.Random, *, items: int) -> Iterator[Request]:
    """`items` real pairs a request, at their own lengths, each prompt once; in a new round of all, numbered."""
    order = list(texts.singles)
    generator.shuffle(order)

    def endless() -> Iterator[tuple[str, str]]:
        yield from order
        for lap in itertools.count(1):
            yield from ((f"{lap}. {prompt}", response) for prompt, response in order)

    pairs = endless()
    while True:
        yield Request(tuple(itertools.islice(pairs, items)))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("best-of-8", 4, 16, 10, 384, partial(_groups, responses=8, prompt=256, response=128)),
        Workload("best-of-8-long", 4, 16, 10, 576, partial(_groups, responses=8, prompt=512, response=64)),
        Workload("best-of-8-short", 4, 12, 8, 320, partial(_groups, responses=8, prompt=64, response=256)),
        Workload("best-of-64", 2, 6, 4, 544, partial(_groups, responses=64, prompt=512, response=32)),
        Workload("pairs", 8, 40, 24, 384, partial(_groups, responses=2, prompt=256, response=128)),
        Workload("mixed", 64, 192, 128, 0, partial(_mixed, items=1)),
        Workload("bulk", 1, 2, 1, 0, partial(_mixed, items=512)),
        Workload("interactive", 1, 40, 20, 128, partial(_groups, responses=1, prompt=64, response=64)),
    )
}
"""By name; the prompts are long in `-long`, and short in `-short`, whose responses are long."""


def fitting(max_tokens: int) -> list[str]:
    """Names of the workloads whose items fit a model, with room for its format."""
    return [name for name, workload in WORKLOADS.items() if workload.longest + FORMAT_TOKENS <= max_tokens]


FORMAT_TOKENS = 48
"""At most what the raced models' formats add to an item."""
