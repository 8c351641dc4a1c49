"""Two instruments that prometheus_client does not have: a gauge without a sample until it is set, and a histogram that
takes a batch at once. Both are its own `Collector`s, and keep no file in multi-process mode."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from threading import Lock

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Reading(Collector):
    """A gauge. A process that does not know the value shows none, where a `Gauge` would show a 0 that nobody measured."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = (), registry=REGISTRY):
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {}
        self._lock = Lock()
        registry.register(self)

    def set(self, value: float, *labels: str) -> None:
        with self._lock:
            self.replace(self._values | {labels: value})

    def replace(self, values: dict[tuple[str, ...], float]) -> None:
        """These values by labels and no others: what is gone (a partition, an answer) is shown no more."""
        if any(len(labels) != len(self._labels) for labels in values):
            raise ValueError(f"{self._name}: expected values for the labels {self._labels}")
        self._values = values

    def forget(self, *labels: str) -> None:
        """Shows no value for these labels: this process does not know it any more."""
        with self._lock:
            self.replace({known: value for known, value in self._values.items() if known != labels})

    def value(self, *labels: str) -> float | None:
        return self._values.get(labels)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        (family,) = self.describe()
        for labels, value in sorted(self._values.items()):
            family.add_metric(labels, value)
        yield family


class AgeHistogram(Collector):
    """A histogram of seconds between each of many moments and one later moment.

    `observe_all` sorts the moments and looks the bucket bounds up among them, in C: a batch of 2,000 costs a fifth of what
    2,000 calls of `Histogram.observe` cost, and a three hundredth of what it takes to record them.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry=REGISTRY):
        self._name, self._documentation = name, documentation
        self._bounds = [(floatToGoString(bound), timedelta(seconds=bound)) for bound in bounds]
        self._lock = Lock()
        # How many are at most so old as the bound of each bucket, as the text format wants them.
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe_all(self, moments: Sequence[datetime], now: datetime) -> None:
        """Counts `now - moment` for each; a moment after `now` counts as 0 seconds."""
        if not moments:
            return
        ordered = sorted(moments)
        total = len(ordered)
        younger = [total - bisect_left(ordered, now - bound) for _, bound in self._bounds]
        in_time = bisect_right(ordered, now)
        seconds = in_time * now.timestamp() - sum(map(datetime.timestamp, ordered[:in_time]))
        with self._lock:
            self._counts = [count + more for count, more in zip(self._counts, [*younger, total], strict=True)]
            self._sum += max(0.0, seconds)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        with self._lock:
            counts, seconds = self._counts, self._sum
        names = [name for name, _ in self._bounds] + ["+Inf"]
        yield HistogramMetricFamily(self._name, self._documentation, list(zip(names, counts, strict=True)), seconds)
