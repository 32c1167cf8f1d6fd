"""Which of several servers a request goes to. Pure: time and chance are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeVar

T = TypeVar("T")

EJECTION_BASE_S = 0.5
EJECTION_CAP_S = 30.0
REFUSAL_CAP_S = 2.0

_FORGOTTEN = 0.1
"""Part of what is known of an endpoint's load that goes each time it is passed over: what it told grows old."""


class Sampler(Protocol):
    """The part of `random.Random` that a choice needs."""

    def sample(self, population: list[T], k: int) -> list[T]:
        """Return k different elements."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server. Times are on the caller's clock, in seconds.

    Attributes:
        url: what paths are appended to.
        host: the name that was resolved to it, for the Host header and TLS; None where the URL is as it was given.
        outstanding: requests in flight from this client.
        others: requests in flight from other clients, by what it told last.
        tells: whether it told that with its last reply.
        failures: in a row.
        ejected_at, ejected_until: between the two it is not asked if another can be, as it failed.
        refused_until: likewise, as it had no room.
    """

    url: str
    host: str | None = None
    outstanding: int = 0
    others: float = 0.0
    tells: bool = True
    failures: int = 0
    ejected_at: float = -inf
    ejected_until: float = -inf
    refused_until: float = -inf

    @property
    def left_alone_until(self) -> float:
        """When it is asked again like any other."""
        return max(self.ejected_until, self.refused_until)


class Endpoints:
    """Least loaded of two drawn ones (Mitzenmacher 2001) and of that which last told its load, without those that fail.

    Loads are requests in flight, this client's own and those of others as replies tell them. To remember one beside
    those drawn is from Mitzenmacher, Prabhakar and Shah, "Load balancing with memory" (FOCS 2002): a worker with one
    request at a time has none outstanding when it chooses, and would choose by chance.

    What was told is of the past. It counts for as long after a reply as that request took, so that the bursts
    of a training step, minutes apart, are spread by chance and not by what is long over, over new servers too; an
    endpoint that is passed over is taken to be less loaded each time; and where one of those drawn tells nothing, they
    are compared by this client's own requests alone.

    A failure leaves its endpoint alone for half a second, and twice as long with each further one in a row, up to 30
    seconds; a refusal for want of room for two seconds at most, since a smaller request may find it. Requests that
    were in flight at the time say nothing new, whether they fail or are answered. Where all are left out, all are
    asked: a client with one server behaves as if there were no such rule.

    Args:
        endpoints: those known so far.
        sampler: a random generator.
    """

    def __init__(self, endpoints: Iterable[Endpoint], sampler: Sampler) -> None:
        self._all = list(endpoints)
        self._sampler = sampler
        self._latest: Endpoint | None = None  # that told its load, which counts until then
        self._counts_until = -inf

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def replace(self, endpoints: Iterable[Endpoint]) -> None:
        """Take a new list; endpoints that were known by URL and host keep what is known of them."""
        known = {(endpoint.url, endpoint.host): endpoint for endpoint in self._all}
        self._all = [known.get((endpoint.url, endpoint.host), endpoint) for endpoint in endpoints]

    def choose(self, now: float) -> Endpoint:
        """The endpoint of the next request; there must be one."""
        able = [endpoint for endpoint in self._all if endpoint.left_alone_until <= now] or self._all
        drawn = able if len(able) == 1 else self._sampler.sample(able, 2)
        fresh = now <= self._counts_until
        if fresh and self._latest in able and self._latest not in drawn:
            drawn.append(self._latest)
        if not fresh or not all(endpoint.tells for endpoint in drawn):
            return min(drawn, key=lambda endpoint: endpoint.outstanding)
        chosen = min(drawn, key=lambda endpoint: endpoint.outstanding + endpoint.others)
        for endpoint in drawn:
            if endpoint is not chosen:
                endpoint.others *= 1 - _FORGOTTEN
        return chosen

    def replied(self, endpoint: Endpoint, in_flight: int | None, began: float, now: float) -> None:
        """It replied to a request that began at that time and is still counted as outstanding.

        Args:
            in_flight: how many requests it has beside that one, as it says; None where it does not.
        """
        endpoint.tells = in_flight is not None
        if in_flight is not None:
            endpoint.others = max(0.0, in_flight - (endpoint.outstanding - 1))
            self._latest, self._counts_until = endpoint, max(self._counts_until, now + (now - began))

    def able_in(self, now: float) -> float | None:
        """Seconds until one of several is not left out, 0 if one is not; None where there is but one.

        After a failure, whose endpoint is left out, that one is most often another.
        """
        if len(self._all) < 2:
            return None
        return max(0.0, min(endpoint.left_alone_until for endpoint in self._all) - now)

    def answered(self, endpoint: Endpoint, began: float) -> None:
        """It answered a request that began at that time."""
        if began >= endpoint.ejected_at:
            endpoint.failures, endpoint.ejected_at, endpoint.ejected_until = 0, -inf, -inf

    def refused(self, endpoint: Endpoint, began: float, now: float, retry_after_s: float | None) -> None:
        """It works, and had no room for a request that began at that time."""
        self.answered(endpoint, began)
        wanted = EJECTION_BASE_S if retry_after_s is None else min(retry_after_s, REFUSAL_CAP_S)
        endpoint.refused_until = max(endpoint.refused_until, now + wanted)

    def failed(self, endpoint: Endpoint, began: float, now: float, retry_after_s: float | None = None) -> None:
        """It failed at a request that began at that time, and may want to be left alone for `retry_after_s`."""
        wanted = now + min(retry_after_s or 0.0, EJECTION_CAP_S)
        endpoint.others = 0.0
        if began >= endpoint.ejected_at:
            endpoint.failures += 1
            endpoint.ejected_at = now
            wanted = max(wanted, now + min(EJECTION_CAP_S, EJECTION_BASE_S * 2.0 ** min(endpoint.failures - 1, 30)))
        endpoint.ejected_until = max(endpoint.ejected_until, wanted)
