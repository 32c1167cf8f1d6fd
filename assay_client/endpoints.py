"""Which of several servers a request goes to. Pure: time and chance are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")

EJECTION_BASE_S = 0.5
EJECTION_CAP_S = 30.0


class Sampler(Protocol):
    """The part of `random.Random` that a choice needs."""

    def sample(self, population: list[T], k: int) -> list[T]:
        """Return k different elements."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server.

    Attributes:
        url: what paths are appended to.
        host: the name that was resolved to it, for the Host header and TLS; None where the URL is as it was given.
        outstanding: requests in flight from this client.
        failures: in a row.
        ejected_until: on the caller's clock; before that it is not asked if another can be.
    """

    url: str
    host: str | None = None
    outstanding: int = 0
    failures: int = 0
    ejected_until: float = 0.0


class Endpoints:
    """Least outstanding of two drawn ones (Mitzenmacher 2001), leaving out those that fail.

    A failure leaves its endpoint alone for half a second, and twice as long with each further one in a row, up to 30
    seconds; an answer of any kind that is not a failure ends that. Where all are left out, the one whose turn comes
    soonest is asked: a client with one server behaves as if there were no such rule.

    Args:
        endpoints: at least one.
        sampler: a random generator.
    """

    def __init__(self, endpoints: Iterable[Endpoint], sampler: Sampler) -> None:
        self._all = list(endpoints)
        self._sampler = sampler

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Take a new list; endpoints that were known by their URL keep what is known of them."""
        known = {endpoint.url: endpoint for endpoint in self._all}
        self._all = [known.get(endpoint.url, endpoint) for endpoint in endpoints]

    def choose(self, now: float) -> Endpoint:
        """The endpoint of the next request."""
        able = [endpoint for endpoint in self._all if endpoint.ejected_until <= now]
        if not able:
            return min(self._all, key=lambda endpoint: endpoint.ejected_until)
        drawn = able if len(able) == 1 else self._sampler.sample(able, 2)
        return min(drawn, key=lambda endpoint: endpoint.outstanding)

    def another(self, now: float) -> bool:
        """Whether an endpoint can be asked now that has not just failed, so that nobody need wait for one."""
        return len(self._all) > 1 and any(endpoint.ejected_until <= now for endpoint in self._all)

    def answered(self, endpoint: Endpoint) -> None:
        """It works."""
        endpoint.failures, endpoint.ejected_until = 0, 0.0

    def failed(self, endpoint: Endpoint, now: float, retry_after_s: float | None = None) -> None:
        """It does not, or wants to be left alone for `retry_after_s`."""
        if endpoint.ejected_until > now:
            return  # one of several that were in flight when it began to fail
        endpoint.failures += 1
        pause = min(EJECTION_CAP_S, EJECTION_BASE_S * 2.0 ** min(endpoint.failures - 1, 30))
        endpoint.ejected_until = now + max(pause, min(retry_after_s or 0.0, EJECTION_CAP_S))
