"""Bringing a started server to the point where all its models are ready."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from underpaint.errors import ServerStartError
from underpaint.server.control import ControlClient, TritonError
from underpaint.server.errors import ServerEndedError
from underpaint.server.logs import load_failure
from underpaint.server.repository import ModelFolder, load_waves

LOG = logging.getLogger("underpaint.server")

_LOOK_EVERY_S = 0.05


def wait_live(client: ControlClient, ended: Callable[[], bool], deadline: float) -> None:
    """Wait until the server answers. Raises ``ServerStartError`` if it ends or ``deadline`` (monotonic) passes."""
    while not client.live():
        if ended():
            raise ServerEndedError("tritonserver ended before it answered")
        if time.monotonic() > deadline:
            raise ServerStartError("tritonserver does not answer: give it longer with --start-timeout")
        time.sleep(_LOOK_EVERY_S)


def load_all(client: ControlClient, models: Sequence[ModelFolder], deadline: float) -> None:
    """Load every model, several at a time, with a line of progress for each. Raises ``ServerStartError``."""
    done = 0
    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    try:
        for wave in load_waves(models):
            loads = {pool.submit(_load, client, model.name, deadline): model.name for model in wave}
            for load in as_completed(loads):
                done += 1
                LOG.info("%2d/%d %s ready (%.1f s)", done, len(models), loads[load], _result(load, loads[load]))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _load(client: ControlClient, model: str, deadline: float) -> float:
    """Load one model; the seconds it took."""
    start = time.monotonic()
    client.load(model, timeout_s=max(1.0, deadline - start))
    return time.monotonic() - start


def _result(load: Future[float], model: str) -> float:
    try:
        return load.result()
    except TritonError as error:
        raise ServerStartError(f"model {model} does not load: {load_failure(str(error))}") from None
    except TimeoutError:
        raise ServerStartError(f"model {model} was not loaded in time: give it longer with --start-timeout") from None
    except OSError:
        raise ServerEndedError(f"tritonserver ended while loading model {model}") from None
