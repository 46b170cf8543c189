"""Processor time of processes, as the operating system counts it."""

from __future__ import annotations

import os
import time

from underpaint.bench.common.processor import TRITONSERVER, processor_s, since


def test_what_a_process_computes_is_counted() -> None:
    before, spun_until_s = processor_s(os.getpid()), time.process_time() + 0.2
    while time.process_time() < spun_until_s:
        pass
    assert since(before, processor_s(os.getpid()))[TRITONSERVER] >= 0.15


def test_a_process_that_is_not_there_has_taken_nothing() -> None:
    assert processor_s(2**22 + 1) == {TRITONSERVER: 0.0}
    assert since({"tiny-l_unet": 3.0, TRITONSERVER: 1.0}, {TRITONSERVER: 0.5}) == {TRITONSERVER: 0.0}
