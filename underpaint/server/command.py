"""The command lines: of our tritonserver, and of the same server in NVIDIA's container."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from underpaint.cache.location import VARIABLE, default_store
from underpaint.server.options import ServerOptions

_CHECKOUT = Path(__file__).resolve().parents[2]
_RESPONSE_CACHE_BYTES = 64 * 1024 * 1024  # some hundred texts as the largest encoders read them
CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-py3"


def tritonserver_arguments(options: ServerOptions, models: Sequence[str] = ()) -> list[str]:
    """The flags that hold wherever the server runs; ``models`` are loaded at start (none: by the launcher)."""
    return [
        f"--model-repository={options.model_repository}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        *(f"--load-model={model}" for model in models),
        f"--http-port={options.http_port}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-port={options.metrics_port}",
        *(["--log-verbose=1"] if options.log_verbose else []),
        *_python_backend("python", options, options.bls_threads),
    ]


def embedded_arguments(options: ServerOptions, runtime: Path, shm_prefix: str) -> list[str]:
    """The flags of the embedded server: those above, its address, the folders that ``runtime.lay_out`` filled, its own
    onnxruntime backend, whose models call no others, and a cache for the models that want one."""
    return [
        *tritonserver_arguments(options),
        f"--http-address={options.host}",
        f"--grpc-address={options.host}",
        f"--metrics-address={options.host}",
        f"--exit-timeout-secs={max(1, int(options.stop_grace_s))}",
        f"--backend-directory={runtime / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *_python_backend("onnxruntime", options, threads=1),
        f"--backend-config=onnxruntime,shm-region-prefix-name={shm_prefix}",
        f"--cache-directory={runtime / 'caches'}",
        f"--cache-config=local,size={_RESPONSE_CACHE_BYTES}",
    ]


def _python_backend(backend: str, options: ServerOptions, threads: int) -> list[str]:
    """What the Python backend takes, under either of the names that it has here. ``threads``: for calls to models."""
    settings = {
        "shm-default-byte-size": options.shm_initial_bytes,
        "shm-growth-byte-size": options.shm_growth_bytes,
        "thread-pool-size": threads,
    }
    return [f"--backend-config={backend},{name}={value}" for name, value in settings.items()]


def native_line(options: ServerOptions, models: Sequence[str]) -> str:
    """What to type where tritonserver is installed, with its onnxruntime and python backends."""
    named = ["env", f"{VARIABLE}={options.store.absolute()}"] if options.store else []
    return shlex.join([*named, "tritonserver", *tritonserver_arguments(options, models)])


def container_line(options: ServerOptions, models: Sequence[str]) -> str:
    """What to type to serve the same repository in the stock container, with this checkout installed in it.

    On a machine with GPUs ``--gpus=all`` belongs behind ``docker run``.
    """
    inside = ServerOptions(Path("/models"), load_models=options.load_models, log_verbose=options.log_verbose)
    serve = f"pip install '/src[serve]' && exec {native_line(inside, models)}"
    published = [f"-p{options.host}:{port}:{inside.ports[name]}" for name, port in options.ports.items()]
    repository = options.model_repository.resolve()
    store = (options.store or default_store()).absolute()
    volumes = [f"-v{_CHECKOUT}:/src:ro", f"-v{repository}:/models:ro", f"-v{store}:/cache", f"-e{VARIABLE}=/cache"]
    addons = repository.parent / "addons"  # where LoRAs are, unless the environment says otherwise
    volumes += [f"-v{addons}:/addons:ro"] if addons.is_dir() else []
    flags = ["--rm", "-it", "--shm-size=1g", *published, *volumes]
    return shlex.join(["docker", "run", *flags, CONTAINER, "bash", "-c", serve])
