"""One run of the tritonserver process, from its private folder to its exit status."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from underpaint.errors import ServerStartError
from underpaint.server import guardian
from underpaint.server.command import embedded_arguments
from underpaint.server.options import ServerOptions
from underpaint.server.runtime import Installation, environment, lay_out

_UNLOADING_S = 2.0  # what tritonserver may take beyond the grace that it grants its requests


class TritonProcess:
    """A running tritonserver under its guardian. ``on_line`` gets every line that the server or a model prints."""

    def __init__(self, options: ServerOptions, installation: Installation, on_line: Callable[[str], None]) -> None:
        self.runtime = Path(tempfile.mkdtemp(prefix=f"underpaint-{os.getpid()}-"))
        self.shm_prefix = f"underpaint-{os.getpid()}-{secrets.token_hex(4)}-"
        lay_out(installation, self.runtime)
        arguments = embedded_arguments(options, self.runtime, self.shm_prefix)
        command = [str(installation.tritonserver), *arguments]
        self._control, theirs = socket.socketpair()
        self._guardian = subprocess.Popen(
            [*_guardian_command(options, self.runtime, self.shm_prefix, theirs.fileno()), "--", *command],
            env=environment(installation, self.runtime, options.store, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is ours to handle
        )
        theirs.close()
        self._printer = threading.Thread(target=self._read_lines, args=(on_line,), name="triton-log", daemon=True)
        self._printer.start()
        self.pid = self._server_pid()

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 128 + n if signal n ended it."""
        return self._guardian.poll()

    def stop(self) -> int:
        """Let requests finish within the grace period, then end it; returns its exit status."""
        return self._end(b"stop\n")

    def kill(self) -> int:
        """End it now: all its callers lose their connections."""
        return self._end(b"kill\n")

    def hurry(self) -> None:
        """Turn a ``stop`` that is under way in another frame into a ``kill``."""
        self._tell(b"kill\n")

    def _end(self, command: bytes) -> int:
        self._tell(command)
        status = self._guardian.wait()
        guardian.clean_up(self.shm_prefix, self.runtime)  # in case that the guardian itself was killed
        self._printer.join(timeout=1.0)
        self._control.close()
        return status

    def _tell(self, command: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended by itself
            self._control.sendall(command)

    def _server_pid(self) -> int:
        with self._control.makefile("r") as lines:
            words = lines.readline().split()
        if len(words) != 2:
            status = self._guardian.wait()
            raise ServerStartError(f"tritonserver could not be executed (exit status {status}); see the log above")
        return int(words[1])

    def _read_lines(self, on_line: Callable[[str], None]) -> None:
        assert self._guardian.stdout is not None
        for line in self._guardian.stdout:
            on_line(line.decode("utf-8", "replace").rstrip("\n"))


def describe_exit(status: int) -> str:
    """An exit status in words: of tritonserver, or (negative) of a guardian that was itself killed."""
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status if status < 0 else status - 128).name}"
    return f"exit status {status}"


def _guardian_command(options: ServerOptions, runtime: Path, shm_prefix: str, control_fd: int) -> list[str]:
    return [
        sys.executable,
        "-I",
        str(Path(guardian.__file__)),
        f"--control-fd={control_fd}",
        f"--grace-s={options.stop_grace_s + _UNLOADING_S}",
        f"--shm-prefix={shm_prefix}",
        f"--runtime={runtime}",
    ]
