"""Made-up traffic: token sequences with the lengths and the sharing of best-of-n sampling and of single pairs."""

from dataclasses import dataclass, field

import numpy as np

from service.bundle.layout import Family, IntArray
from service.scoring.prefixes import Sequences

MOST_TOKENS = 2048
_VOCABULARY = 49_152


@dataclass
class Traffic:
    """Draws requests; the same seed draws the same ones."""

    seed: int
    _group: list[IntArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def pair(self) -> Sequences:
        """An interactive request: one prompt with two responses."""
        prompt = self._tokens(250)
        return self._request([self._answer(prompt, 100) for _ in range(2)])

    def bulk(self, prompts: int = 8, responses: int = 8) -> Sequences:
        """A post of several prompts with as many responses each."""
        items = []
        for _ in range(prompts):
            prompt = self._tokens(250)
            items += [self._answer(prompt, 100) for _ in range(responses)]
        return self._request(items)

    def single(self) -> Sequences:
        """One item in full text; eight in a row have the same prompt, as the workers of one group send them."""
        if not self._group:
            prompt = self._tokens(250)
            self._group = [self._answer(prompt, 100) for _ in range(8)]
        return self._request([self._group.pop()])

    def gap(self, rate: float) -> float:
        """Seconds until the next of Poisson arrivals."""
        return float(self._rng.exponential(1 / rate))

    def _tokens(self, mean: float) -> IntArray:
        length = int(np.clip(self._rng.lognormal(np.log(mean), 0.6), 8, MOST_TOKENS // 2))
        return self._rng.integers(0, _VOCABULARY, length)

    def _answer(self, prompt: IntArray, mean: float) -> IntArray:
        return np.concatenate([prompt, self._tokens(mean)])

    def _request(self, items: list[IntArray]) -> Sequences:
        return Sequences.of(items, Family.CAUSAL)
