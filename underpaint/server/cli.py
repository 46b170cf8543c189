"""``underpaint serve``: a Triton server on this machine, without a container."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from underpaint.cache.location import default_store
from underpaint.deployment import default_repository
from underpaint.errors import ServerStartError
from underpaint.server.command import container_line, native_line
from underpaint.server.companion import Companion
from underpaint.server.embedded import EmbeddedServer
from underpaint.server.errors import PreflightError
from underpaint.server.options import ServerOptions
from underpaint.server.repository import read_models

LOG = logging.getLogger("underpaint.server")

_INTERRUPTED = 130
_LEVELS = ("debug", "info", "warning", "error")
_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``serve`` to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="serve a model repository with the embedded Triton server",
        description="Serve a model repository with a Triton server on this machine, without a container.",
    )
    _add_arguments(parser)
    parser.set_defaults(func=run)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    default = ServerOptions(Path())
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model-repository",
        type=Path,
        metavar="DIR",
        help="default: ./model_repository, or else that of the checkout",
    )
    models.add_argument(
        "--load-model", action="append", metavar="PATTERN", help="shell pattern; repeatable; default: all"
    )
    models.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="of the cache; default: $UNDERPAINT_STORE, or else ~/.cache/underpaint",
    )
    models.add_argument("--heartbeat", **_seconds(default.heartbeat_s, "how often models are asked for a sign of life"))
    models.add_argument("--start-timeout", **_seconds(default.start_timeout_s, "how long loading all models may take"))
    monitor = parser.add_argument_group("monitor")
    monitor.add_argument(
        "--monitor",
        nargs="?",
        const="hadis",
        metavar="ALLOCATOR",
        help="run `underpaint monitor` beside the server; default: hadis. It needs a profile (`underpaint profile`)",
    )
    monitor.add_argument("--profile", type=Path, metavar="FILE", help="default: profile.json in the store")
    monitor.add_argument("--slo", type=_positive, metavar="SECONDS", help="the promised latency; default: as monitor")
    address = parser.add_argument_group("address")
    address.add_argument("--host", default=default.host, help="0.0.0.0: reachable from outside; default: %(default)s")
    for name, port in default.ports.items():
        address.add_argument(f"--{name}-port", type=_port, default=port, help="0: any free one; default: %(default)s")
    output = parser.add_argument_group("output")
    output.add_argument("--log-level", choices=_LEVELS, default="info", help="default: %(default)s")
    output.add_argument("-v", "--verbose", action="count", default=0, help="log level debug; -vv: and Triton's own")
    output.add_argument("--print-command", action="store_true", help="print tritonserver and docker commands and exit")


def _seconds(default: float, what: str) -> dict[str, Any]:
    return {"type": _positive, "default": default, "metavar": "SECONDS", "help": f"{what}; default: {default:g}"}


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text}; allowed: 0 to 65535")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}; allowed: a number above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Serve until stopped. 0: stopped; 1: failed; 130: stopped by force. Raises ``PreflightError`` (exit code 2)."""
    options = options_of(args)
    if args.print_command:
        _print_commands(options)
        return 0
    server = EmbeddedServer(options)
    _configure_logging(logging.DEBUG if args.verbose else getattr(logging, args.log_level.upper()))
    return _Session(server, _monitor_arguments(args)).run()


def options_of(args: argparse.Namespace) -> ServerOptions:
    """The command line as options."""
    return ServerOptions(
        model_repository=args.model_repository or default_repository(),
        host=args.host,
        http_port=args.http_port,
        grpc_port=args.grpc_port,
        metrics_port=args.metrics_port,
        store=args.store,
        load_models=tuple(args.load_model or ("*",)),
        log_verbose=args.verbose > 1,
        start_timeout_s=args.start_timeout,
        heartbeat_s=args.heartbeat,
    )


def _monitor_arguments(args: argparse.Namespace) -> Callable[[EmbeddedServer], list[str]] | None:
    """The command line of the monitor beside a server, once that has its ports. Raises ``PreflightError``."""
    if args.monitor is None:
        return None
    store = (args.store or default_store()).absolute()
    profile = (args.profile or store / "profile.json").absolute()
    if not profile.is_file():
        raise PreflightError(f"--monitor needs a profile, and there is no {profile}: run `underpaint profile` first")

    def arguments(server: EmbeddedServer) -> list[str]:
        options = server.options
        address = f"{options.local_host}:{options.http_port}:{options.metrics_port}"
        slo = [] if args.slo is None else ["--slo", str(args.slo)]
        where = ["--server", address, "--store", str(store), "--profile", str(profile)]
        return ["monitor", "--allocator", args.monitor, *where, *slo]

    return arguments


def _print_commands(options: ServerOptions) -> None:
    everything = options.load_models == ("*",)
    names = ["*"] if everything else [each.name for each in read_models(options.model_repository, options.load_models)]
    print("# tritonserver with the python and onnxruntime backends:", native_line(options, names), sep="\n")
    print("# NVIDIA's container:", container_line(options, names), sep="\n")


class _Stopped(BaseException):
    """A signal asked us to end while the server was starting."""


class _Session:
    """One server and the signals that end it: the first one gently, the second one at once."""

    def __init__(self, server: EmbeddedServer, monitor: Callable[[EmbeddedServer], list[str]] | None = None) -> None:
        self._server, self._monitor = server, monitor
        self._signals = 0

    def run(self) -> int:
        previous = {each: signal.signal(each, self._on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._serve()
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def _serve(self) -> int:
        try:
            with self._server as server, self._companion():
                _announce(server)
                server.wait()
        except _Stopped:
            pass
        except PreflightError:
            raise
        except ServerStartError as error:
            print(f"underpaint: {error}", file=sys.stderr)
            return 1
        if self._server.failure:
            return 1
        LOG.info("stopped")
        return _INTERRUPTED if self._signals > 1 else 0

    def _companion(self) -> AbstractContextManager[object]:
        return nullcontext() if self._monitor is None else Companion(self._monitor(self._server))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self._server.kill()
            return
        LOG.info("%s: stopping (again: at once, dropping requests)", signal.Signals(number).name)
        raise _Stopped


def _announce(server: EmbeddedServer) -> None:
    LOG.info("ready: HTTP %s, gRPC %s, metrics %s", server.http_url, server.grpc_url, server.metrics_url)


def _configure_logging(level: int) -> None:
    logging.basicConfig(level=level, stream=sys.stderr, datefmt="%H:%M:%S", format=_FORMAT, force=True)
    for chatty in ("urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
