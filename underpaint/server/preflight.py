"""What must hold before tritonserver is started. Each failure is one sentence that says what to do."""

from __future__ import annotations

import errno
import os
import platform
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from underpaint.server.errors import PreflightError
from underpaint.server.options import MIB, ServerOptions
from underpaint.server.repository import ENSEMBLE, ModelFolder, load_waves, read_models
from underpaint.server.runtime import Installation, libpython_name

_BACKENDS = ("python", "onnxruntime", ENSEMBLE)
_PYTHONS = ((3, 11), (3, 12))
_SHARED_MEMORY = Path("/dev/shm")
_SPARE_BYTES = 16 * MIB


def check(options: ServerOptions) -> tuple[Installation, list[ModelFolder]]:
    """Everything needed to start. Raises ``PreflightError`` for the first thing that is missing."""
    check_platform(sys.platform, platform.machine(), (sys.version_info.major, sys.version_info.minor))
    installation = check_installation(Installation.locate())
    models = read_models(options.model_repository, options.load_models)
    load_waves(models)
    for model in models:
        check_model(model)
    check_shared_memory(models, options.shm_initial_bytes, _free_bytes(_SHARED_MEMORY))
    check_ports(options)
    return installation, models


def check_platform(system: str, machine: str, python: tuple[int, int]) -> None:
    """The wheel holds binaries for one platform, and its numpy pin allows few Python versions."""
    if system != "linux" or machine not in ("x86_64", "aarch64"):
        raise PreflightError(
            f"the embedded server runs on Linux (x86_64 or aarch64), this is {system} on {machine}: use NVIDIA's "
            "container instead (underpaint serve --print-command)"
        )
    if python not in _PYTHONS:
        given, allowed = ".".join(map(str, python)), ", ".join(".".join(map(str, each)) for each in _PYTHONS)
        raise PreflightError(f"the embedded server needs Python {allowed}, this is {given}: make an environment of one")


def check_installation(installation: Installation | None) -> Installation:
    """The wheel, its stub for this Python, and a libpython for the stub."""
    if installation is None or not installation.tritonserver.is_file() or not installation.stub.is_file():
        raise PreflightError("there is no tritonserver here: pip install 'underpaint[embedded]' brings nvidia-pytriton")
    if installation.libpython is None:
        raise PreflightError(
            f"{libpython_name()} is missing, which Triton's Python models are linked against: install your system's "
            "libpython package, or a Python that was built with --enable-shared"
        )
    return installation


def check_model(model: ModelFolder) -> None:
    """A numbered version folder, with the model's file in it, of a backend that is there."""
    if model.backend not in _BACKENDS:
        raise PreflightError(
            f"model {model.name} needs the backend {model.backend or '(none named)'}, the embedded server has "
            f"{', '.join(_BACKENDS)}: use NVIDIA's container, or leave it out with --load-model"
        )
    versions = model.versions()
    if not versions:
        raise PreflightError(f"model {model.name} has no version folder: {model.path / '1'} should exist")
    if model.backend == ENSEMBLE:
        return
    if not (versions[-1] / model.model_file).exists():
        raise PreflightError(
            f"model {model.name} has no {model.model_file} in {versions[-1]}: train it ('underpaint train tiny'), "
            "or leave it out with --load-model"
        )


def check_shared_memory(models: Sequence[ModelFolder], bytes_each: int, free_bytes: int) -> None:
    """Every model process holds a region of shared memory, which grows with what it is sent."""
    processes = sum(model.processes for model in models)
    needed = 2 * processes * bytes_each + _SPARE_BYTES
    if free_bytes < needed:
        raise PreflightError(
            f"{_SHARED_MEMORY} has {free_bytes // MIB} MiB free, {processes} model processes need "
            f"{needed // MIB} MiB: enlarge it (docker run --shm-size=1g, or mount -o remount,size=1g {_SHARED_MEMORY})"
        )


def check_ports(options: ServerOptions) -> None:
    """Nothing else listens where the server wants to."""
    ports = [port for port in options.ports.values() if port]
    if len(set(ports)) < len(ports):
        raise PreflightError(f"the HTTP, gRPC and metrics ports must differ, got {', '.join(map(str, ports))}")
    for name, port in options.ports.items():
        _check_port(name, options.host, port)


def _check_port(name: str, host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise PreflightError(
                f"{name} port {port} on {host} is in use: stop what listens there, or choose another with "
                f"--{name}-port (0: any free one)"
            ) from None
        raise PreflightError(f"cannot listen on {host}:{port} for {name}: {error}") from None


def _free_bytes(path: Path) -> int:
    try:
        status = os.statvfs(path)
    except OSError:
        raise PreflightError(f"there is no {path}, through which Triton talks to its Python models") from None
    return status.f_bavail * status.f_frsize
