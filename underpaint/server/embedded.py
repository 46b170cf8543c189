"""A tritonserver of our own, as a context manager: started, watched over, restarted if need be, stopped cleanly."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from underpaint.errors import ServerStartError
from underpaint.server import preflight
from underpaint.server.control import ControlClient
from underpaint.server.errors import ServerEndedError
from underpaint.server.loading import load_all, wait_live
from underpaint.server.logs import LogForwarder
from underpaint.server.options import ServerOptions
from underpaint.server.policy import ModelTraits, restart_delay_s
from underpaint.server.process import TritonProcess, describe_exit
from underpaint.server.runtime import compile_models
from underpaint.server.supervisor import Supervisor, list_stubs

LOG = logging.getLogger("underpaint.server")

_LOOK_EVERY_S = 0.2


class EmbeddedServer:
    """``with EmbeddedServer(ServerOptions(repository, http_port=0, …)) as server:``

    Ready on entry, with all its models; gone on exit, with everything that belonged to it. Its address stays the same
    when tritonserver has to be restarted meanwhile; ``pid`` changes then. Raises ``ServerStartError``.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._installation, self._models = preflight.check(options)
        compile_models(folder for model in self._models for folder in model.versions())
        self.options = options.with_free_ports()
        self._client = ControlClient(self.options.local_host, self.options.http_port)
        self._log = LogForwarder()
        self._process: TritonProcess | None = None
        self._supervisor: Supervisor | None = None
        self._watcher = threading.Thread(target=self._watch, name="triton-watcher", daemon=True)
        self._restarts: list[float] = []
        self._restart_wanted = ""  # by the supervisor, with the reason
        self._restarting = threading.Event()
        self._loaded = threading.Event()
        self._stopping = threading.Event()
        self._over = threading.Event()
        self.failure = ""

    @property
    def http_url(self) -> str:
        return f"http://{self.options.local_host}:{self.options.http_port}"

    @property
    def grpc_url(self) -> str:
        """Without a scheme, as gRPC clients want it."""
        return f"{self.options.local_host}:{self.options.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self.options.local_host}:{self.options.metrics_port}/metrics"

    @property
    def pid(self) -> int:
        """The tritonserver process."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def stub_pids(self, model: str) -> list[int]:
        """The processes that serve a loaded model."""
        traits = ModelTraits.of_config(self._client.config(model))
        return [stub.pid for stub in list_stubs(self.pid) if not stub.defunct and traits.owns(stub.instance)]

    def start(self) -> None:
        """Returns when all models are ready."""
        try:
            self._launch()
        except BaseException:
            self._end_run(gently=False)
            raise
        self._watcher.start()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server and all its models are ready, as after a restart."""
        deadline = time.monotonic() + timeout_s
        while not (self._loaded.is_set() and self._client.ready()):
            if self.failure or time.monotonic() > deadline:
                raise ServerStartError(self.failure or f"the server was not ready within {timeout_s:g} s")
            time.sleep(_LOOK_EVERY_S)

    def wait(self) -> None:
        """Wait until the server is over: stopped, or failed (then ``failure`` says why)."""
        self._over.wait()

    def stop(self) -> None:
        """End the server and remove what is left of it. May be called more than once."""
        self._stopping.set()
        while self._watcher.is_alive():
            if self._restarting.is_set():
                self.kill()  # nobody waits for a server that is just starting
            self._watcher.join(timeout=_LOOK_EVERY_S)
        self._end_run(gently=True)
        self._over.set()

    def kill(self) -> None:
        """Make a ``stop`` that is under way quick, at the cost of the requests it waits for."""
        if self._process is not None:
            self._process.hurry()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _launch(self) -> None:
        """One run of tritonserver, up to all models being ready and watched over."""
        deadline = time.monotonic() + self.options.start_timeout_s
        process = self._process = TritonProcess(self.options, self._installation, self._log)
        try:
            wait_live(self._client, lambda: process.exit_status is not None or self._stopping.is_set(), deadline)
            load_all(self._client, self._models, deadline)
        except ServerEndedError as error:
            raise ServerStartError(self._obituary(str(error))) from None
        self._supervisor = Supervisor(self.options, self._client, process.pid, self._release_callers)
        self._supervisor.start()
        self._loaded.set()

    def _obituary(self, message: str) -> str:
        assert self._process is not None
        how = describe_exit(self._process.kill())  # waits for the end of one that is ending
        return f"{message} ({how}; its last error: {self._log.last_error or 'none'})"

    def _end_run(self, gently: bool) -> None:
        self._loaded.clear()
        if self._supervisor is not None:
            self._supervisor.stop()
        if self._process is not None:
            self._process.stop() if gently else self._process.kill()

    def _watch(self) -> None:
        """The one thread that restarts: a tritonserver that ended by itself, or that the supervisor wants ended."""
        while not self._stopping.wait(_LOOK_EVERY_S) and not self.failure:
            reason = self._reason_to_restart()
            if reason:
                self._restarting.set()
                self._restart(reason)
                self._restarting.clear()

    def _reason_to_restart(self) -> str:
        wanted, self._restart_wanted = self._restart_wanted, ""
        if self._process is not None and self._process.exit_status is not None:
            return self._obituary("tritonserver ended by itself")
        return wanted

    def _release_callers(self, reason: str) -> None:
        self._restart_wanted = f"{reason}: tritonserver is ended, which drops all connections"

    def _restart(self, reason: str) -> None:
        """End this run and start another, as often and as fast as the limits allow; otherwise fail."""
        while not self._stopping.is_set():
            self._end_run(gently=False)
            self._restarts.append(time.monotonic())
            delay_s = restart_delay_s(self._restarts, self.options.restarts)
            if delay_s is None:
                self._fail(f"{reason}; giving up after {self.options.restarts.burst} restarts")
                return
            LOG.error("%s; starting it again%s", reason, f" in {delay_s:.0f} s" if delay_s else "")
            if self._stopping.wait(delay_s):
                return
            try:
                self._launch()
                LOG.warning("tritonserver runs again; all models are ready")
                return
            except ServerStartError as error:
                reason = str(error)

    def _fail(self, reason: str) -> None:
        LOG.error("%s", reason)
        self.failure = reason
        self._over.set()
