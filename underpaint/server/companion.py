"""The monitor beside a server: started with it, started again when it dies, stopped before it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence

LOG = logging.getLogger("underpaint.server")

_AGAIN_AFTER_S = 5.0
_PATIENCE_S = 5.0


class Companion:
    """``with Companion(["monitor", …]):`` an underpaint command of its own process. Its end is never the server's."""

    def __init__(self, arguments: Sequence[str], again_after_s: float = _AGAIN_AFTER_S) -> None:
        self._command = [sys.executable, "-m", "underpaint.cli", *arguments]
        self._again_after_s = again_after_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="companion", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the process as it is now."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Companion:
        self._start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._thread.join(_PATIENCE_S)

    def _start(self) -> None:
        # In a session of its own: Ctrl-C is for the server, which stops us.
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            assert self._process is not None
            status = self._process.wait()
            if self._stopping.is_set():
                return
            LOG.warning("the monitor ended (%d); serving goes on, and it is started again", status)
            if self._stopping.wait(self._again_after_s):
                return
            self._start()
