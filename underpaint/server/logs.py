"""tritonserver's output, made readable: one line an event, with a level, and the noise turned down.

tritonserver prints ``I1120 10:37:24.551395 19705 model_lifecycle.cc:472] "loading: cache:1"``, tables, and whatever its
models print. On a machine without a GPU it complains of that in a dozen ways, none of which matters.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

LOG = logging.getLogger("tritonserver")

_EVENT = re.compile(
    r"(?P<letter>[IWEF])(?P<day>\d{4}) (?P<time>\d\d:\d\d:\d\d\.\d+) +(?P<pid>\d+) (?P<source>[^\]]+)\] ?(?P<text>.*)"
)
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}

# What says nothing to whoever runs the server: the launcher reports loading, ports and stopping itself.
_NOISE = re.compile(
    r"CUDA driver|CudaDriverHelper|CUDA memory pool|unable to create stream|pinned memory pool|pinned system memory"
    r"|NVML|DCGM|Collecting (CPU|GPU|metrics)|no GPU"
    r"|^loading: |^failed to load '[^']*'$|successfully (un)?loaded|TRITONBACKEND_ModelInstance|^Started .*Service"
    r"|^Timeout \d+: Found|Waiting for in-flight requests|All models are stopped|^Signal \(\d+\) received"
    r"|HandleCancellation called even when the context was not cancelled"  # at the end of a stream with an error
    r"|^Creating TritonCache|^Initialized "
    r"|Non-graceful termination detected|^Failed to initialize Python stub|^ERROR: Failed to create instance"
    r"|^At:$|^  .+\(\d+\): \S+$"  # the stack that follows a Python error of which the first line is told anyway
)
_FATAL = ("error: ", "terminate called", "  what():")  # the last two are C++'s, of a process that ends itself
_LOAD_FAILURE = re.compile(r"^load failed for model '[^']*': version \d+ is at UNAVAILABLE state: ")
_TABLE = re.compile(r"^[+|].*[+|]$")


@dataclass(frozen=True)
class LogLine:
    """One line of the server's output. ``source`` is empty for what a model printed itself."""

    level: int
    source: str
    text: str


def parse(line: str) -> LogLine | None:
    """What a raw line says; None for tables and blank lines. Noise is lowered to DEBUG."""
    if not line.strip() or _TABLE.match(line):
        return None
    event = _EVENT.match(line)
    if event is None:
        level = logging.ERROR if line.startswith(_FATAL) else logging.INFO
        return LogLine(_lowered(level, line), "", line.rstrip())
    text = _unquoted(event["text"])
    if not text:
        return None  # the heading of a table
    return LogLine(_lowered(_LEVELS[event["letter"]], text), event["source"], text)


def _lowered(level: int, text: str) -> int:
    return logging.DEBUG if _NOISE.search(text) else level


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text.replace("\\n", "\n").replace('\\"', '"').strip()


class LogForwarder:
    """Hands the server's lines on to ``logging``; remembers the last error, to quote it when the server dies."""

    def __init__(self) -> None:
        self.last_error = ""

    def __call__(self, raw: str) -> None:
        line = parse(raw)
        if line is None:
            return
        if line.level >= logging.ERROR:
            self.last_error = one_line(line.text)
        # An error comes with its Python stack, for those who debug.
        text = line.text if LOG.isEnabledFor(logging.DEBUG) else one_line(line.text)
        LOG.log(line.level, "%s", text, extra={"source": line.source})


def one_line(text: str, limit: int = 400) -> str:
    """The gist of what Triton says: in one line, without the Python stack that it appends to errors."""
    gist = " ".join(re.split(r"\n\s*\nAt:", text, maxsplit=1)[0].split()).rstrip(";, ")
    return gist if len(gist) <= limit else f"{gist[:limit]}…"


def load_failure(text: str) -> str:
    """The reason out of what Triton says of a model that does not load."""
    return one_line(_LOAD_FAILURE.sub("", text))
