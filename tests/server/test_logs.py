"""tritonserver's lines, read."""

import logging

import pytest

from underpaint.server.logs import LogForwarder, LogLine, load_failure, parse

HEAD = "1120 10:37:24.551395 19705 "


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (f'I{HEAD}server.cc:12] "Something new"', LogLine(logging.INFO, "server.cc:12", "Something new")),
        (f'W{HEAD}a.cc:1] "say \\"hi\\""', LogLine(logging.WARNING, "a.cc:1", 'say "hi"')),
        (f"E{HEAD}pb_stub.cc:9]  unquoted ", LogLine(logging.ERROR, "pb_stub.cc:9", "unquoted")),
        ("a model prints", LogLine(logging.INFO, "", "a model prints")),
        ("error: creating server: Internal", LogLine(logging.ERROR, "", "error: creating server: Internal")),
        (
            "terminate called without an active exception",
            LogLine(logging.ERROR, "", "terminate called without an active exception"),
        ),
        ("  what():  lock", LogLine(logging.ERROR, "", "  what():  lock")),
    ],
)
def test_lines(raw, line):
    assert parse(raw) == line


@pytest.mark.parametrize("raw", ["", "+---+---+", "| Model | Status |", f"I{HEAD}server.cc:604] "])
def test_tables_and_blanks_say_nothing(raw):
    assert parse(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        f'E{HEAD}server.cc:241] "CudaDriverHelper has not been initialized."',
        f'W{HEAD}m.cc:273] "Unable to allocate pinned system memory, … CUDA driver version is insufficient"',
        f'W{HEAD}metrics.cc:798] "DCGM unable to start: DCGM initialization error"',
        "Error: Failed to initialize NVML",
        f'E{HEAD}infer_handler.h:1]"HandleCancellation called even when the context was not cancelled for x"',
        f'I{HEAD}model_lifecycle.cc:472] "loading: unet:1"',
    ],
)
def test_noise_is_for_debugging_only(raw):
    line = parse(raw)
    assert line is not None and line.level == logging.DEBUG


def test_the_last_error_is_remembered_in_one_line(caplog):
    log = LogForwarder()
    with caplog.at_level(logging.DEBUG, "tritonserver"):
        for raw in (f'E{HEAD}a.cc:1] "out of\\nmemory"', f'E{HEAD}s.cc:1] "no CUDA driver"', f'I{HEAD}a.cc:1] "fine"'):
            log(raw)
    assert log.last_error == "out of memory"
    assert [record.levelname for record in caplog.records] == ["ERROR", "DEBUG", "INFO"]


def test_a_load_failure_without_its_wrapping():
    text = (
        "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: ValueError: no weights\n\n"
        "At:\n  /somewhere/model.py(3): initialize\n;"
    )
    assert load_failure(text) == "Internal: ValueError: no weights"
