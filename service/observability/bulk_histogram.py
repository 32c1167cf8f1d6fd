"""A histogram that takes many values at once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class BulkHistogram(Collector):
    """Like the library's, which takes microseconds for each value; a request has a thousand. For one thread only.

    Args:
        name, documentation: as for any metric.
        buckets: upper bounds, rising; +Inf is added.
        registry: where it is collected.
        labels: of every sample.
    """

    def __init__(
        self, name: str, documentation: str, buckets: Iterable[float], registry: CollectorRegistry,
        labels: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._name = name
        self._labels = dict(labels or {})
        self._documentation = documentation
        self._bounds: npt.NDArray[np.float64] = np.unique(np.fromiter(buckets, dtype=np.float64))
        self._counts = np.zeros(len(self._bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Sequence[float]) -> None:
        """Count the values; each must be finite."""
        if values:
            places = np.searchsorted(self._bounds, values)  # the first bound that is not below the value
            self._counts += np.bincount(places, minlength=len(self._counts))
            self._sum += float(np.sum(values))

    def collect(self) -> Iterator[Metric]:
        """The metric as it stands."""
        metric = Metric(self._name, self._documentation, "histogram")
        below = np.cumsum(self._counts).tolist()
        for bound, count in zip([*self._bounds.tolist(), np.inf], below, strict=True):
            label: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
            metric.add_sample(f"{self._name}_bucket", {**self._labels, "le": label}, count)
        metric.add_sample(f"{self._name}_count", self._labels, below[-1])
        if self._bounds[0] >= 0:  # a sum that can fall is no counter, and OpenMetrics has none
            metric.add_sample(f"{self._name}_sum", self._labels, self._sum)
        yield metric
