"""The monitor's own metrics, and its journal."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.monitor.test_monitor import cascade
from underpaint.monitor import journal
from underpaint.monitor.exporter import Exporter
from underpaint.monitor.journal import Decision, Journal
from underpaint.monitor.metrics import Endpoint

DECISION = Decision("2026-11-28T12:00:00.000+00:00", 7.5, 15, 2, cascade(), {}, changed=True, applied=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_decisions_become_metrics() -> None:
    port = free_port()
    exporter, endpoint = Exporter(port), Endpoint(f"http://127.0.0.1:{port}/metrics")
    try:
        for decision in (DECISION, replace(DECISION, applied=False), replace(DECISION, problems=("it did not load",))):
            exporter.tell(decision)
        shown = endpoint.fetch(5.0)
    finally:
        endpoint.close()
        exporter.close()
    assert (shown.total("underpaint_monitor_demand"), shown.total("underpaint_monitor_servers")) == (7.5, 2)
    assert shown.by("underpaint_monitor_share", "kind") == {"hard": 0.1, "deferred": 0.4}
    results = shown.by("underpaint_monitor_decisions_total", "result")
    assert results == {"applied": 1, "unchanged": 1, "failed": 1}


def test_a_journal_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LARGEST", 2000)
    log = Journal(tmp_path / "decisions.jsonl")
    for _ in range(50):
        log.note(DECISION)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2 and max(sizes) < 3000
    last = json.loads(log.path.read_text().splitlines()[-1])
    assert (last["arrivals_per_s"], last["allocation"]["direct"]) == (7.5, 0.1)
