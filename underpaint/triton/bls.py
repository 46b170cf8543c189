"""Calls from one model to another (Triton's business logic scripting), each with a deadline.

A call blocks a thread of our own until the other model answers, and a model whose process was killed may never
answer; so nobody waits on the call itself, only on its future, for as long as the caller can bear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

from underpaint.errors import Unavailable
from underpaint.front_door.transport import Parameters, Tensors
from underpaint.triton.replies import from_triton_error
from underpaint.triton.tensors import to_triton

_NEWEST = -1


class BlsTransport:
    """Other models of this server, called from any thread or event loop.

    A model is named as ``name``, for the newest version that is loaded, or as ``name:version``.
    """

    def __init__(self, max_calls: int) -> None:
        """``max_calls``: how many may be under way at once, those that nobody waits for any more included.

        Triton has a pool of its own for these calls: 32 threads a process, unless the server was started with
        ``--backend-config=python,thread-pool-size=N``.
        """
        self._pool = ThreadPoolExecutor(max_calls, thread_name_prefix="bls")
        self._max_calls = max_calls
        self._given_up: set[Future[dict[str, np.ndarray]]] = set()

    def begin(
        self, model: str, inputs: Tensors, outputs: Sequence[str], timeout_s: float
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Call ``model``. What is returned waits for the answer, at most ``timeout_s``.

        Raises, when waited for:
            Unavailable: no answer in time.
            UnderpaintError: the model's own error, with its status.
        """
        future = self._start(model, inputs, outputs, {})

        def wait() -> dict[str, np.ndarray]:
            try:
                return future.result(timeout_s)
            except TimeoutError:
                self._give_up(future)
                raise _no_answer(model, timeout_s) from None

        return wait

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        parameters: Parameters | None = None,
        decoupled: bool = False,
    ) -> dict[str, np.ndarray]:
        """Call ``model`` and await the answer. Of a ``decoupled`` model, the outputs of its last response.

        Raises as ``begin`` does.
        """
        future = self._start(model, inputs, outputs, parameters or {}, decoupled)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise _no_answer(model, timeout_s) from None
        finally:
            self._give_up(future)

    @property
    def exhausted(self) -> bool:
        """Whether so many calls were never answered that there is hardly a thread left for new ones.

        A call that waits for a process that has died keeps its thread for ever; only a new process helps.
        """
        return len(self._given_up) > self._max_calls // 2

    def _give_up(self, future: Future[dict[str, np.ndarray]]) -> None:
        """Nobody waits for this call any more; remember it for as long as it holds a thread."""
        if not future.done() and not future.cancel():
            self._given_up.add(future)
            future.add_done_callback(self._given_up.discard)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(
        self, model: str, inputs: Tensors, outputs: Sequence[str], parameters: Parameters, decoupled: bool = False
    ) -> Future[dict[str, np.ndarray]]:
        return self._pool.submit(_exec, model, inputs, outputs, parameters, decoupled)


def _exec(
    model: str, inputs: Tensors, outputs: Sequence[str], parameters: Parameters, decoupled: bool
) -> dict[str, np.ndarray]:
    name, _, version = model.partition(":")
    request = pb_utils.InferenceRequest(
        model_name=name,
        model_version=int(version or _NEWEST),
        inputs=to_triton(inputs),
        requested_output_names=list(outputs),
        parameters=dict(parameters),
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    try:
        responses = list(request.exec(decoupled=True)) if decoupled else [request.exec()]
    except pb_utils.TritonModelException as error:  # Triton would not even take the call
        raise Unavailable(f"{model}: {error}") from None
    tensors: dict[str, np.ndarray] = {}
    for response in responses:
        if response.has_error():
            raise from_triton_error(model, response.error())
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()} or tensors
    return tensors


def _no_answer(model: str, timeout_s: float) -> Unavailable:
    return Unavailable(f"{model} did not answer within {timeout_s:.1f} s")
