"""``cache``: one process that holds the cache of a server (see ``underpaint.cache``).

It blocks: where its process dies, Triton answers its callers within a second. Without a store it answers UNAVAILABLE
and tries again, and its callers go on without a cache.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from underpaint.cache.cache import ImageCache
from underpaint.cache.entries import Match
from underpaint.cache.errors import StoreUnavailable
from underpaint.cache.eviction import Strategy
from underpaint.cache.gpu import gpu_index
from underpaint.cache.index import NewIndex
from underpaint.cache.location import default_store
from underpaint.errors import InvalidArgument, NotFound, UnderpaintError, Unsupported
from underpaint.front_door.transport import Tensors
from underpaint.triton.cache_entries import new_entries
from underpaint.triton.cache_metrics import CacheActivity, CacheMetrics
from underpaint.triton.model_args import ModelArgs
from underpaint.triton.replies import to_triton_error
from underpaint.triton.tensors import inputs_of, needed, scalar, strings, text, to_triton

_TRY_AGAIN_AFTER_S = 2.0


class TritonPythonModel:
    """Operations: ``lookup``, ``fetch``, ``insert``, ``stats``, ``clear``, ``pin``, ``unpin`` and ``heartbeat``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._alive_since_ns = time.monotonic_ns()
        model = ModelArgs.of(args)
        _hand_logs_to_triton()
        self._keeper = _Keeper(model.parameters)
        self._errors: Counter[str] = Counter()
        self._metrics = CacheMetrics(model.name, self._activity)
        self._operations: dict[str, Callable[[Tensors], Tensors]] = {
            "lookup": self._lookup,
            "fetch": self._fetch,
            "insert": self._insert,
            "stats": self._stats,
            "clear": self._clear,
            "pin": self._pin,
            "unpin": self._unpin,
            "heartbeat": self._heartbeat,
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        self._metrics.close()
        self._keeper.close()

    def _answer(self, request: Any) -> Any:
        try:
            inputs = inputs_of(request)
            tensors = self._operation(text(inputs, "op"))(inputs)
        except Exception as error:
            self._errors[_reason(error)] += 1
            if not isinstance(error, UnderpaintError):
                pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
            return pb_utils.InferenceResponse(output_tensors=[], error=to_triton_error(error, to_model=True))
        return pb_utils.InferenceResponse(output_tensors=to_triton(tensors))

    def _operation(self, op: str) -> Callable[[Tensors], Tensors]:
        if op not in self._operations:
            raise InvalidArgument.of("op", op, ", ".join(self._operations))
        return self._operations[op]

    def _lookup(self, inputs: Tensors) -> Tensors:
        matches = self._keeper.cache().lookup(
            text(inputs, "space"),
            text(inputs, "scope"),
            needed(inputs, "embedding"),
            scalar(inputs, "top_k", 1),
            scalar(inputs, "max_generation"),
        )
        found = [dict(vars(match)) for match in matches]
        brought = self._bring(matches[0], inputs) if matches else None
        if brought is None:
            return {"matches": strings(json.dumps(found, ensure_ascii=False))}
        step, array = brought
        found[0]["brought"] = step
        return {"matches": strings(json.dumps(found, ensure_ascii=False)), **_start(array)}

    def _bring(self, best: Match, inputs: Tensors) -> tuple[int, np.ndarray] | None:
        """What its caller is going to reuse of the best match, and as of which step; 0: the image."""
        reach = inputs.get("bring_from", np.empty(0, np.float32)).tolist()
        limits = inputs.get("bring_step", np.empty(0, np.int32)).tolist()
        if len(reach) != len(limits):
            raise InvalidArgument.of("bring_step", limits, f"{len(reach)} steps, one for each of bring_from")
        limit = next((step for least, step in zip(reach, limits, strict=True) if best.similarity >= least), None)
        if limit is None:
            return None
        step = max((step for step in best.steps if step <= limit), default=0)
        if step == 0 < limit:
            return None
        with suppress(NotFound):  # the match is true, and who wants more of it will be told
            return step, self._fetched(best.entry_id, step, inputs)
        return None

    def _fetched(self, entry_id: int, step: int, inputs: Tensors) -> np.ndarray:
        """Latents of a step; 0: the image, or what stands for it."""
        cache = self._keeper.cache()
        return cache.fetch_latents(entry_id, step) if step else cache.fetch_start(entry_id, text(inputs, "autoencoder"))

    def _fetch(self, inputs: Tensors) -> Tensors:
        return _start(self._fetched(_entry_id(inputs), scalar(inputs, "step", 0), inputs))

    def _insert(self, inputs: Tensors) -> Tensors:
        """In the thread that answers lookups too: an entry of 64 x 64 pixels takes 0.4 ms of it, with latents 1 ms."""
        entry_ids = self._keeper.cache().insert_all(new_entries(inputs))
        return {"entry_id": np.array(entry_ids, np.int64)}

    def _stats(self, inputs: Tensors) -> Tensors:
        stats = asdict(self._keeper.cache().stats())
        return {"stats": strings(json.dumps({"store": str(self._keeper.folder), **stats, "errors": self._errors}))}

    def _clear(self, inputs: Tensors) -> Tensors:
        removed = self._keeper.cache().clear(text(inputs, "tenant") or None, text(inputs, "scope") or None)
        return {"entries": np.array([removed], np.int64)}

    def _pin(self, inputs: Tensors) -> Tensors:
        self._keeper.cache().pin(_entry_id(inputs))
        return {"entry_id": inputs["entry_id"]}

    def _unpin(self, inputs: Tensors) -> Tensors:
        self._keeper.cache().unpin(_entry_id(inputs))
        return {"entry_id": inputs["entry_id"]}

    def _heartbeat(self, inputs: Tensors) -> Tensors:
        return {"alive_since_ns": np.array([self._alive_since_ns], np.int64)}

    def _activity(self) -> CacheActivity:
        return CacheActivity(self._keeper.stats(), self._errors)


class _Keeper:
    """The cache, as soon as its store can be opened: another server may hold it, or this model's own predecessor."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Raises InvalidArgument, where a parameter is wrong."""
        named = parameters["store"]
        self.folder = Path(named).expanduser().absolute() if named else default_store()
        self._capacity = int(parameters["capacity"])
        self._eviction = Strategy.of(parameters["eviction"])
        self._on_gpu = _on_gpu(parameters.get("index", "cpu"))
        self._cache: ImageCache | None = None
        self._refused: StoreUnavailable | None = None
        self._try_again_s = 0.0
        self._open()

    def cache(self) -> ImageCache:
        """Raises StoreUnavailable with the reason why there is none."""
        if self._cache is None and time.monotonic() >= self._try_again_s:
            self._open()
        if self._cache is None:
            assert self._refused is not None
            raise self._refused
        return self._cache

    def stats(self) -> Any:
        """Of the cache that is open, if one is."""
        return None if self._cache is None else self._cache.stats()

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def _open(self) -> None:
        try:
            self._cache = ImageCache(self.folder, self._capacity, self._eviction, on_gpu=self._on_gpu)
        except StoreUnavailable as error:
            self._try_again_s = time.monotonic() + _TRY_AGAIN_AFTER_S
            if str(error) != str(self._refused):
                pb_utils.Logger.log_warn(f"no cache, so nothing is reused: {error}")
            self._refused = error
        else:
            held = self._cache.stats()
            pb_utils.Logger.log_info(f"cache at {self.folder}: {held.entries} entries of {held.capacity}")


def _on_gpu(index: str) -> NewIndex | None:
    """Where the parameter asks for it; what a machine has not costs speed only. Raises InvalidArgument."""
    if index not in ("cpu", "gpu"):
        raise InvalidArgument.of("parameter index", index, "cpu, gpu")
    try:
        return gpu_index() if index == "gpu" else None
    except Unsupported as why:
        pb_utils.Logger.log_warn(f"{why}; the CPU's index serves")
        return None


def _start(array: np.ndarray) -> Tensors:
    """By its kind."""
    return {"image" if array.dtype == np.uint8 else "latents": array}


def _entry_id(inputs: Tensors) -> int:
    needed(inputs, "entry_id")
    return int(scalar(inputs, "entry_id"))


def _reason(error: Exception) -> str:
    """In a word, for metrics."""
    if isinstance(error, StoreUnavailable):
        return error.reason
    return error.status.lower() if isinstance(error, UnderpaintError) else "internal"


class _TritonLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = pb_utils.Logger.log_error if record.levelno >= logging.ERROR else pb_utils.Logger.log_warn
        log(self.format(record))


def _hand_logs_to_triton() -> None:
    """What the cache has to say belongs among what the server says."""
    logger = logging.getLogger("underpaint.cache")
    logger.addHandler(_TritonLog())
    logger.propagate = False
