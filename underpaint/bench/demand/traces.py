"""Traces of how demand went up and down, and arrivals that follow them at a size of our choosing.

A trace is read for its shape alone. Two formats are known:

- ``arrival_ms,prompt_id`` a line, without a header and in any order (DiffServe's and HADIS' artifacts): counted in
  intervals wide enough for ``ARRIVALS_AN_INTERVAL`` each, since narrower ones would show chance and not demand;
- a CSV file with a column ``invocations``, one row an interval (Azure Functions as DiffServe summed it up).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from underpaint.errors import InvalidArgument, NotFound

ARRIVALS_AN_INTERVAL = 50


@dataclass(frozen=True)
class Trace:
    """Demand in equal intervals, in any unit."""

    name: str
    demand: tuple[float, ...]


@dataclass(frozen=True)
class Schedule:
    """Requests a second, in intervals of ``interval_s``."""

    interval_s: float
    rates_per_s: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return self.interval_s * len(self.rates_per_s)

    @property
    def requests(self) -> float:
        """Expected number of them."""
        return self.interval_s * sum(self.rates_per_s)

    def arrivals_s(self, seed: int) -> list[float]:
        """When requests come: a Poisson process at each interval's rate, the same one for the same seed."""
        random = np.random.default_rng(seed)
        times: list[float] = []
        for number, rate in enumerate(self.rates_per_s):
            count = random.poisson(rate * self.interval_s)
            times += np.sort((number + random.random(count)) * self.interval_s).tolist()
        return times


def schedule(trace: Trace, peak_per_s: float, seconds: float) -> Schedule:
    """The trace in ``seconds`` from end to end, with ``peak_per_s`` requests a second where it is highest."""
    highest = max(trace.demand)
    return Schedule(seconds / len(trace.demand), tuple(peak_per_s * each / highest for each in trace.demand))


def stretched(trace: Trace, low_per_s: float, peak_per_s: float, seconds: float) -> Schedule:
    """The trace in ``seconds``, its lowest demand as ``low_per_s`` and its highest as ``peak_per_s``, as the artifacts
    of DiffServe and HADIS make their arrivals of the Azure Functions trace."""
    lowest, highest = min(trace.demand), max(trace.demand)
    span = highest - lowest or 1.0
    rates = tuple(low_per_s + (peak_per_s - low_per_s) * (each - lowest) / span for each in trace.demand)
    return Schedule(seconds / len(rates), rates)


def read_arrivals_s(path: Path) -> list[float]:
    """When requests came, rising, of a file in the first format; for its errors see ``read_trace``."""
    lines = _lines(path)
    if _summed_up(lines):
        raise InvalidArgument.of("trace", str(path), "a file of arrivals, or one with a peak to scale it to")
    arrivals = sorted(each / 1000 for each in _arrivals_ms(path, lines))
    if not arrivals:
        raise InvalidArgument.of("trace", str(path), "one with requests in it")
    return arrivals


def read_trace(path: Path) -> Trace:
    """
    Raises:
        NotFound: there is no such file.
        InvalidArgument: it is in neither format, or holds no demand.
    """
    lines = _lines(path)
    demand = _invocations(path, lines) if _summed_up(lines) else _count(_arrivals_ms(path, lines))
    if not demand or not max(demand) > 0:
        raise InvalidArgument.of("trace", str(path), "one with requests in it")
    return Trace(path.stem, tuple(demand))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument.of("trace", str(path), "a text file") from None


def _summed_up(lines: Sequence[str]) -> bool:
    return bool(lines) and "invocations" in lines[0].split(",")


def _invocations(path: Path, lines: Sequence[str]) -> list[float]:
    rows = csv.DictReader(lines)
    return [_number(path, rows.line_num, row["invocations"] or "") for row in rows]


def _arrivals_ms(path: Path, lines: Sequence[str]) -> list[float]:
    return [_number(path, n, line.split(",")[0]) for n, line in enumerate(lines, start=1) if line.strip()]


def _number(path: Path, line: int, text: str) -> float:
    """A time or an amount: finite, and not below 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InvalidArgument.of(f"{path}, line {line}", text, "a number, 0 or more")
    return value


def _count(arrivals_ms: Sequence[float]) -> list[float]:
    if not arrivals_ms:
        return []
    intervals = max(1, len(arrivals_ms) // ARRIVALS_AN_INTERVAL)
    counts, _ = np.histogram(arrivals_ms, bins=intervals, range=(0, max(arrivals_ms) + 1e-6))
    return [float(count) for count in counts]
