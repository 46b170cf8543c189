"""Where tritonserver and its backends lie, and the private folder and environment that a server runs in.

The ``nvidia-pytriton`` wheel brings tritonserver, its libraries, and the python backend with one stub per Python
version. Triton wants them laid out as a backend directory.
"""

from __future__ import annotations

import compileall
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from underpaint.cache.location import VARIABLE

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_ONNXRUNTIME_MODEL = "from underpaint.triton.onnxruntime_backend import TritonPythonModel  # noqa: F401\n"


@dataclass(frozen=True)
class Installation:
    """The files that an embedded server is made of. They need not exist: ``preflight`` checks them."""

    tritonserver: Path
    libraries: Path
    python_backend: Path
    caches: Path
    stub: Path
    libpython: Path | None

    @classmethod
    def locate(cls) -> Installation | None:
        """The installed wheel's files for this interpreter; None where the wheel is not installed."""
        spec = importlib.util.find_spec("pytriton")
        if spec is None or not spec.submodule_search_locations:
            return None
        package = Path(next(iter(spec.submodule_search_locations)))
        root = package / "tritonserver"
        return cls(
            tritonserver=root / "bin" / "tritonserver",
            libraries=package.parent / "nvidia_pytriton.libs",
            python_backend=root / "backends" / "python",
            caches=root / "caches",
            stub=root / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
            libpython=find_libpython(),
        )


def libpython_name() -> str:
    """File name of the shared library that the stub is linked against."""
    return f"libpython{_PYTHON}.so.1.0"


def find_libpython() -> Path | None:
    """The running interpreter's shared library; None where this Python was built without one."""
    candidates = (folder / libpython_name() for folder in _library_folders())
    return next((path for path in candidates if path.exists()), None)


def _library_folders() -> Iterator[Path]:
    yield Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    yield Path(sys.base_prefix) / "lib"
    multiarch = sysconfig.get_config_var("MULTIARCH")
    yield from (Path(root) / multiarch for root in ("/usr/lib", "/lib") if multiarch)
    yield from (Path("/usr/lib64"), Path("/usr/local/lib"))


def lay_out(installation: Installation, folder: Path) -> None:
    """Fill ``folder`` with what tritonserver looks for: ``backends/``, ``caches/`` and ``lib/``, mostly links.

    The onnxruntime backend is the Python backend once more, under a name of its own, since a Python-based backend
    without a library shares the settings of ``python``: each of its processes would have as many threads for calls to
    other models as a front door.
    """
    assert installation.libpython is not None, "preflight checks it"
    _link_all([*_visible(installation.python_backend), installation.stub], folder / "backends" / "python")
    # Only libpython: the rest of its folder (a conda environment's, say) must not shadow other libraries.
    _link_all([installation.libpython], folder / "lib")
    _link(installation.caches, folder / "caches")
    onnxruntime = folder / "backends" / "onnxruntime"
    onnxruntime.mkdir()
    _link(installation.python_backend / "libtriton_python.so", onnxruntime / "libtriton_onnxruntime.so")
    (onnxruntime / "model.py").write_text(_ONNXRUNTIME_MODEL)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != "__pycache__"]


def _link_all(paths: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        _link(path, folder / path.name)


def _link(path: Path, link: Path) -> None:
    """A symbolic link; but Triton accepts no library of a Python-based backend that lies outside the folder."""
    if path.suffix != ".so":
        link.symlink_to(path)
        return
    try:
        link.hardlink_to(path.resolve())
    except OSError:  # another file system
        shutil.copy2(path, link)


def environment(
    installation: Installation, folder: Path, store: Path | None, base: Mapping[str, str]
) -> dict[str, str]:
    """The environment of tritonserver and its stubs: their libraries, this interpreter's packages, the cache."""
    libraries = [str(installation.libraries), str(folder / "lib"), base.get("LD_LIBRARY_PATH", "")]
    return {
        **base,
        "LD_LIBRARY_PATH": _path(libraries),
        # The stub embeds Python and finds its packages through the first python3 on PATH.
        "PATH": _path([str(Path(sys.prefix) / "bin"), base.get("PATH", "")]),
        # numpy's products here are tiny, and a thread that helped with one spins for 30 ms, waiting for the next.
        "OPENBLAS_NUM_THREADS": base.get("OPENBLAS_NUM_THREADS", "1"),
        **({} if store is None else {VARIABLE: str(store.absolute())}),
    }


def _path(entries: Iterable[str]) -> str:
    return os.pathsep.join(entry for entry in entries if entry)


def compile_models(version_folders: Iterable[Path]) -> None:
    """Have the bytecode of Python models written before Triton looks at their folders.

    A ``__pycache__`` that appears later makes Triton take the model for modified, and load it a second time with the
    next ensemble above it. (The stub's Python is isolated: it heeds no PYTHONDONTWRITEBYTECODE.)
    """
    for folder in version_folders:
        compileall.compile_dir(folder, quiet=2, maxlevels=0)
