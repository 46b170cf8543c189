"""One server's metrics: fetched within a deadline, whatever the server does, and what happened between two fetches."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from underpaint.errors import Unavailable

_LARGEST = 16 * 1024 * 1024  # of an answer, in bytes
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """Every value that an endpoint showed, by metric and labels. ``at``: monotonic seconds."""

    at: float
    values: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, at: float) -> Sample:
        """Of Prometheus' text format.

        Raises:
            Unavailable: the text is something else.
        """
        values: dict[str, dict[Labels, float]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for each in family.samples:
                    values.setdefault(each.name, {})[tuple(sorted(each.labels.items()))] = each.value
        except ValueError as error:
            raise Unavailable(f"no metrics, but something that does not parse: {error}") from None
        return cls(at, values)

    def total(self, name: str) -> float:
        """The sum of a metric over all labels; 0 where there is none."""
        return sum(self.values.get(name, {}).values())

    def by(self, name: str, label: str) -> Counter[str]:
        """The sums of a metric by the value of one label."""
        sums: Counter[str] = Counter()
        for labels, value in self.values.get(name, {}).items():
            sums[dict(labels).get(label, "")] += value  # type: ignore[assignment]
        return sums

    def since(self, earlier: Sample) -> Sample:
        """The same with every value as its growth. A counter that fell has started again with its server."""
        grown = {
            name: {
                labels: _growth(value, earlier.values.get(name, {}).get(labels, 0.0)) for labels, value in by.items()
            }
            for name, by in self.values.items()
        }
        return Sample(self.at - earlier.at, grown)


def _growth(now: float, before: float) -> float:
    return now - before if now >= before else now


class Endpoint:
    """A metrics address. A fetch that hangs is left to itself, and the next one is not begun before it has ended."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._clock = clock
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._under_way: Future[Sample] | None = None

    def fetch(self, within_s: float) -> Sample:
        """
        Raises:
            Unavailable: no metrics within that time, with the reason.
        """
        if self._under_way is not None and not self._under_way.done():
            raise Unavailable(f"{self.url} still owes the answer to an earlier question")
        self._under_way = self._pool.submit(self._get, within_s)
        try:
            return self._under_way.result(timeout=within_s)
        except NotYet:
            raise Unavailable(f"{self.url} did not answer within {within_s:g} s") from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self.url}: {getattr(error, 'reason', error)}") from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _get(self, within_s: float) -> Sample:
        with urllib.request.urlopen(self.url, timeout=within_s) as answer:
            text = answer.read(_LARGEST).decode("utf-8", "replace")
        return Sample.parse(text, self._clock())
