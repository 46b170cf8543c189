"""The bench of allocators: what it times, and what it reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from underpaint.bench.control.allocators import Case, cases, decisions, hadis_profile, time_case
from underpaint.cli import main
from underpaint.control.allocation import Form


def test_without_the_published_table_there_are_as_many_configurations() -> None:
    profile = hadis_profile(None)
    assert len(profile.cascades) == 726
    assert len({(row.small, row.large) for row in profile.cascades}) == 6


def test_every_decision_is_timed() -> None:
    told: list[None] = []
    timing = time_case(Case("hadis", Form.CORRECTED, 16), None, 1, lambda: told.append(None))
    assert len(timing.wall_ms) == len(timing.processor_ms) == len(told) == decisions(1)
    assert all(each > 0 for each in timing.wall_ms)


def test_the_report_has_both_allocators_at_both_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "allocators", "--rounds", "1", "--json", str(tmp_path / "a.json")]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    for name in ("diffserve", "hadis"):
        assert set(report["solve_ms"][name]) == {"16", "128"}
        assert all(each > 0 for each in report["solve_ms"][name].values())
    assert len(report["decisions"]) == len(cases())
    assert "worst ms" in capsys.readouterr().out


def test_bad_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "allocators", "--rounds", "0"]) == 2
    assert "rounds" in capsys.readouterr().err
