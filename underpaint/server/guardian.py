"""The process between us and tritonserver: whatever happens to us, nothing of the server stays behind.

It runs this file alone, without the package (``python -I guardian.py …``), so that it starts in milliseconds. It

- starts tritonserver, and ends when tritonserver has ended, with its exit status (128 + n for signal n);
- stops it when told to, and kills it when the process that started the guardian is gone;
- adopts the stubs that a dead tritonserver leaves (it is their subreaper), kills and reaps them;
- removes the server's shared memory and its private folder.

Protocol, over one socket: the guardian sends ``pid <n>``; it receives ``stop`` (SIGTERM, SIGKILL after the grace) or
``kill`` (SIGKILL now). The end of the stream means ``kill``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SHARED_MEMORY = Path("/dev/shm")
_LOOK_EVERY_S = 0.05
_LAST_WORDS_S = 0.3


def main() -> int:
    args = _parse()
    owner = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=args.control_fd)
    try:
        server = subprocess.Popen(args.command, preexec_fn=_die_with_parent, stdin=subprocess.DEVNULL)
        control.sendall(f"pid {server.pid}\n".encode())
        status = _guard(server, control, owner, args.grace_s)
    finally:
        _end_children()
        clean_up(args.shm_prefix, args.runtime)
    return status if status >= 0 else 128 - status


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("--shm-prefix", required=True)
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _guard(server: subprocess.Popen[bytes], control: socket.socket, owner: int, grace_s: float) -> int:
    """Wait for the end of tritonserver, by itself or on command; its return code."""
    deadline = float("inf")
    while server.poll() is None:
        command = _command(control) if os.getppid() == owner else "kill"
        if command == "stop":
            server.terminate()
            deadline = time.monotonic() + grace_s
        if deadline < float("inf") and not _children(server.pid):
            deadline = min(deadline, time.monotonic() + _LAST_WORDS_S)  # its models are gone, it only counts seconds
        if command == "kill" or time.monotonic() > deadline:
            server.kill()
            return server.wait()
    return server.returncode


def _command(control: socket.socket) -> str:
    """The next command, or an empty string if none comes for a moment."""
    readable, _, _ = select.select([control], [], [], _LOOK_EVERY_S)
    if not readable:
        return ""
    with contextlib.suppress(ConnectionError):
        words = control.recv(64).decode().split()
        return words[-1] if words else "kill"
    return "kill"


def _end_children() -> None:
    """Kill and reap every process that is left: the stubs, adopted when their tritonserver ended."""
    while True:
        for pid in _children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children(parent: int) -> list[int]:
    """The living children of a process, whichever of its threads started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, ppid = path.read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z":
                found.append(int(path.parent.name))
    return found


def clean_up(shm_prefix: str, runtime: Path) -> None:
    """Remove what a server leaves outside its processes; does nothing where it is gone."""
    for path in _SHARED_MEMORY.glob(f"{shm_prefix}*"):
        path.unlink(missing_ok=True)
    shutil.rmtree(runtime, ignore_errors=True)


def _die_with_parent() -> None:
    """In the child, before it becomes tritonserver: no guardian, no server."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
