"""Watches over the model processes of one tritonserver: notices the dead and the hung, and acts as ``policy`` says."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from underpaint.server.control import ControlClient, TritonError
from underpaint.server.logs import load_failure
from underpaint.server.options import ServerOptions
from underpaint.server.policy import ModelTraits, OnDeath, Pulse, Stub, StubWatch, restart_delay_s

LOG = logging.getLogger("underpaint.server")

_LOOK_EVERY_S = 0.5
_RELOAD_MARK = "underpaint_reload"
# After a reload the zombie of a model that owes nobody an answer goes within about a second.
_ZOMBIE_GRACE_S = 3.0


@dataclass(frozen=True)
class _Casualty:
    """A model whose process ``pid`` died, to be reloaded, or looked at again after it, at ``due`` (monotonic)."""

    model: ModelTraits
    pid: int
    due: float


class Supervisor:
    """Two threads: one looks at the processes, the other feels the models' pulse; and one for each reload.

    ``release_callers(reason)`` asks for a restart of tritonserver, where nothing less helps.
    """

    def __init__(
        self, options: ServerOptions, client: ControlClient, server_pid: int, release_callers: Callable[[str], None]
    ) -> None:
        self._options = options
        self._client = client
        self._server_pid = server_pid
        self._release_callers = release_callers
        self._watch = StubWatch()
        self._pulse = Pulse()
        self._traits: dict[str, ModelTraits] = {}
        self._deaths: dict[str, list[float]] = defaultdict(list)
        self._waiting: list[_Casualty] = []
        self._reloaded: list[_Casualty] = []
        self._under_reload: set[str] = set()  # models that are waiting to be reloaded, or being so
        self._hung: set[str] = set()  # models whose process was just killed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._look_after, name="triton-supervisor", daemon=True),
            threading.Thread(target=self._feel_pulses, name="triton-heartbeat", daemon=True),
        ]

    def start(self) -> None:
        self._watch.meet(list_stubs(self._server_pid))
        with contextlib.suppress(OSError, TritonError):
            self._learn_models()  # now: who dies before the first look could not be told apart any more
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End supervision. Does not wait: calls under way end with the server."""
        self._stopping.set()

    # The dead

    def _look_after(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            try:
                self._look()
            except (OSError, TritonError) as error:
                LOG.debug("supervision: tritonserver does not answer (%s)", error)
            except Exception:  # nothing would be watched over any more
                LOG.exception("supervision goes on after a defect of its own")

    def _look(self) -> None:
        stubs = list_stubs(self._server_pid)
        if not self._traits or any(not stub.defunct and self._owner(stub) is None for stub in stubs):
            self._learn_models()
        for stub in self._watch.look(stubs):
            model = self._owner(stub)
            if model is not None and model.name not in self._under_reload:
                self._watch.bury(stub.pid)
                self._plan_reload(model, stub.pid, f"its process {stub.pid} died")
        for casualty in [each for each in self._waiting if each.due <= time.monotonic()]:
            self._waiting.remove(casualty)
            threading.Thread(target=self._reload, args=[casualty], name="triton-reload", daemon=True).start()
        self._release_stranded(stubs, time.monotonic())

    def _owner(self, stub: Stub) -> ModelTraits | None:
        return next((traits for traits in self._traits.values() if traits.owns(stub.instance)), None)

    def _learn_models(self) -> None:
        """Read the traits of models that were loaded since the last time."""
        for name in self._client.ready_models():
            if name not in self._traits:
                self._traits[name] = ModelTraits.of_config(self._client.config(name))

    def _plan_reload(self, model: ModelTraits, pid: int, what: str) -> None:
        now = time.monotonic()
        self._under_reload.add(model.name)
        self._hung.discard(model.name)
        self._deaths[model.name].append(now)
        delay_s = restart_delay_s(self._deaths[model.name], self._options.restarts)
        if delay_s is None:
            self._give_up(model, what)
            return
        LOG.warning("%s: %s; reloading it%s", model.name, what, f" in {delay_s:.0f} s" if delay_s else "")
        self._waiting.append(_Casualty(model, pid, now + delay_s))

    def _give_up(self, model: ModelTraits, what: str) -> None:
        limits = self._options.restarts
        LOG.error("%s: %s, after %d reloads in %.0f s: giving up", model.name, what, limits.burst, limits.window_s)
        LOG.error("%s: unloaded, and stays so until somebody loads it", model.name)
        with contextlib.suppress(OSError, TritonError):
            self._client.unload(model.name)
        self._under_reload.discard(model.name)  # whoever loads it has it supervised again

    def _reload(self, casualty: _Casualty) -> None:
        start = time.monotonic()
        name = casualty.model.name
        try:
            config = self._client.config(name)
            # A plain load of a model that is "ready" does nothing; any change in its configuration replaces it.
            config.setdefault("parameters", {})[_RELOAD_MARK] = {"string_value": str(len(self._deaths[name]))}
            self._client.load(name, self._options.start_timeout_s, config)
        except TritonError as error:
            if not self._stopping.is_set():
                self._plan_reload(casualty.model, casualty.pid, f"does not load again ({load_failure(str(error))})")
            return
        except OSError:
            return  # tritonserver ended
        self._watch.meet(list_stubs(self._server_pid))
        LOG.warning("%s: serves again after %.1f s", name, time.monotonic() - start)
        self._reloaded.append(_Casualty(casualty.model, casualty.pid, time.monotonic() + _ZOMBIE_GRACE_S))
        self._under_reload.discard(name)

    def _release_stranded(self, stubs: list[Stub], now: float) -> None:
        """Restart the server if a model that holds requests died holding some: nothing else releases their callers.

        The dead process tells: it stays a zombie as long as its model has requests. (Those that reached it between
        death and reload count too, although Triton did answer them.)
        """
        zombies = {stub.pid for stub in stubs if stub.defunct}
        for casualty in [each for each in self._reloaded if each.due <= now]:
            self._reloaded.remove(casualty)
            if casualty.pid in zombies and casualty.model.on_death is OnDeath.RESTART_SERVER:
                self._release_callers(f"{casualty.model.name} died with requests on it, which nobody else can answer")
                return

    # The hung

    def _feel_pulses(self) -> None:
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="triton-heartbeat") as pool:
            while not self._stopping.wait(self._options.heartbeat_s):
                models = [traits for traits in list(self._traits.values()) if traits.heartbeat]
                for traits, answered in zip(models, pool.map(self._answers, models), strict=True):
                    if self._stopping.is_set():
                        return
                    if self._pulse.beat(traits.name, answered or self._is_ailing(traits)):
                        self._end_hung(traits)

    def _answers(self, model: ModelTraits) -> bool:
        """Whether a model reacts at all: an error of its own is a sign of life too."""
        if self._is_ailing(model):
            return True
        try:
            self._client.generate(model.name, {"op": "heartbeat"}, self._options.heartbeat_timeout_s)
        except TritonError as error:
            return "is not healthy" not in str(error)
        except TimeoutError:
            return False
        except OSError:
            return True  # no server, which is not the model's fault
        return True

    def _is_ailing(self, model: ModelTraits) -> bool:
        """Whether a model is known to be in no state to answer; nothing follows from its silence then."""
        return model.name in self._under_reload or model.name in self._hung

    def _end_hung(self, model: ModelTraits) -> None:
        self._hung.add(model.name)
        for stub in list_stubs(self._server_pid):
            if not stub.defunct and model.owns(stub.instance):
                LOG.warning("%s: its process %d missed two heartbeats; killing it", model.name, stub.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stub.pid, signal.SIGKILL)


def list_stubs(server_pid: int) -> list[Stub]:
    """The model processes of a tritonserver, the dead ones that it has not reaped included."""
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return []
    return [stub for stub in map(_stub, children) if stub is not None]


def _stub(process: psutil.Process) -> Stub | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return Stub(process.pid, "", defunct=True)
        # <stub> <model.py> <shm> <bytes> <bytes> <server pid> <backend folder> <offset> <instance> <runtime model dir>
        words = process.cmdline()
    except psutil.ZombieProcess:
        return Stub(process.pid, "", defunct=True)
    except psutil.NoSuchProcess:
        return None
    return Stub(process.pid, words[-2], defunct=False) if len(words) > 8 else None
