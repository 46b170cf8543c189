"""The ceiling: a UNet in bare onnxruntime sessions, called over and over, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from underpaint.bench.demand.load import Window, closed_loop, rate_per_s
from underpaint.control.machine import cpu_count
from underpaint.errors import InvalidArgument


@dataclass(frozen=True)
class Setup:
    """``sessions`` side by side, each with ``threads`` threads, each called with batches of ``rows``."""

    sessions: int
    threads: int
    rows: int

    def __str__(self) -> str:
        sessions = f"{self.sessions} session{'s' if self.sessions > 1 else ''}"
        return f"{sessions} of {self.threads} thread{'s' if self.threads > 1 else ''}, {self.rows} rows a call"


@dataclass(frozen=True)
class RowShapes:
    """What one row of the UNet's batch consists of (its timestep aside)."""

    sample: tuple[int, ...]
    encoder_hidden_states: tuple[int, ...]


class BareUNet:
    """One ``model.onnx``, with onnxruntime's own defaults but for the number of threads."""

    def __init__(self, path: Path, shapes: RowShapes) -> None:
        if not path.is_file():
            raise InvalidArgument.of("model repository", str(path), "one with this file")
        self._path, self._shapes = path, shapes
        self._session = cache(self._open)

    def rows_per_s(self, setup: Setup, seconds: float) -> float:
        """Rows a second in ``setup``, after one call that does not count."""
        sessions = [self._session(setup.threads, number) for number in range(setup.sessions)]
        inputs = self._inputs(setup.rows)
        for session in sessions:
            session.run(None, inputs)
        # A worker's own number is not known to it, so each call takes a session that is free.
        free = list(sessions)

        def call(_: int) -> None:
            session = free.pop()
            session.run(None, inputs)
            free.append(session)

        return setup.rows * rate_per_s(closed_loop(call, setup.sessions, Window(seconds)))

    def _open(self, threads: int, number: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        return ort.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])

    def _inputs(self, rows: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        return {
            "sample": random.standard_normal((rows, *self._shapes.sample), np.float32),
            "timestep": np.linspace(999, 0, rows, dtype=np.float32),
            "encoder_hidden_states": random.standard_normal((rows, *self._shapes.encoder_hidden_states), np.float32),
        }


def candidate_setups(max_rows: int, cores: int | None = None) -> list[Setup]:
    """All batch sizes that may turn out best, in one session over all cores and in one session a core."""
    cores = cores or cpu_count()
    rows = [n for n in (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 48, 64) if n <= max_rows]
    layouts = {(1, cores), (cores, 1)}
    return [Setup(sessions, threads, n) for sessions, threads in sorted(layouts) for n in rows]
