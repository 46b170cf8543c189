"""What a server is started with."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass, field
from pathlib import Path

from underpaint.server.policy import RestartLimits

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServerOptions:
    """Everything that decides how the embedded tritonserver runs. A port of 0 means: any free one.

    ``store``: the folder of the cache (None: that of ``underpaint.cache.location``).
    ``load_models``: shell patterns over the model names of the repository.
    ``bls_threads``: how many calls one Python model can have under way to other models. A call to a model that died
    while holding it occupies one for ever, so these do for 24 that paint, 24 lost with a denoiser, and 8 for all else.
    Triton starts as many threads for every Python model, and they are not free where cores are few: Linux (6.16 and
    newer) gives a process a table of sleeping threads sized by cores, so that each wake-up searches through them. With
    128, half of tritonserver's processor time on two cores went there.
    """

    model_repository: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    store: Path | None = None
    load_models: tuple[str, ...] = ("*",)
    log_verbose: bool = False
    start_timeout_s: float = 300.0
    stop_grace_s: float = 10.0
    heartbeat_s: float = 5.0
    heartbeat_timeout_s: float = 5.0
    restarts: RestartLimits = field(default_factory=RestartLimits)
    shm_initial_bytes: int = MIB
    shm_growth_bytes: int = 4 * MIB
    bls_threads: int = 56

    @property
    def ports(self) -> dict[str, int]:
        """The three ports by what they serve."""
        return {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port}

    @property
    def local_host(self) -> str:
        """The address at which this machine reaches the server."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host

    def with_free_ports(self) -> ServerOptions:
        """The same with every port of 0 replaced by one that is free now."""
        free = iter(free_ports(3, self.host))
        http, grpc, metrics = (port or next(free) for port in self.ports.values())
        return dataclasses.replace(self, http_port=http, grpc_port=grpc, metrics_port=metrics)


def free_ports(count: int, host: str) -> list[int]:
    """Distinct TCP ports on ``host`` that nothing listens on at the moment."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
