"""The command ``underpaint simulate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from underpaint.cli import main
from underpaint.control.published import published


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text("hour,invocations\n" + "".join(f"{n},{v}\n" for n, v in enumerate([10, 30, 20])))
    return file


def report(tmp_path: Path, *options: str) -> dict:
    file = tmp_path / "report.json"
    assert main(["simulate", *options, "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_all_allocators_side_by_side(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(tmp_path, "--profile", "diffserve-1", "--trace", str(trace), "--peak", "8", "--seconds", "20")
    assert set(found["allocators"]["diffserve"]) == {"published", "corrected"}
    assert "hadis" not in found["allocators"] and "cascades" in found["left_out"]["hadis, corrected"]
    for forms in found["allocators"].values():
        for each in forms.values():
            assert each["answered"] + each["dropped"] == pytest.approx(1, abs=1e-3)
            assert each["requests"] == found["requests"] > 50
    assert "violations" in capsys.readouterr().out


def test_an_arrivals_file_is_played_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.txt"
    file.write_text("".join(f"{n * 400},{n}\n" for n in range(60)))
    options = ["--profile", "diffserve-1", "--trace", str(file), "--allocator", "clipper-light", "--devices", "2"]
    found = report(tmp_path, *options)
    light = found["allocators"]["clipper-light"]["corrected"]
    assert found["requests"] == 60
    assert light["violation_rate"] == 0 and light["p50_s"] == pytest.approx(0.1)


def test_a_profile_of_ones_own(trace: Path, tmp_path: Path) -> None:
    published("diffserve-2").save(tmp_path / "mine.json")
    scores = tmp_path / "scores.csv"
    scores.write_text("router,confidence,small_correct,large_correct\n0.1,0.9,1,1\n0.8,0.1,0,1\n")
    options = ["--profile", str(tmp_path / "mine.json"), "--trace", str(trace), "--peak", "4", "--seconds", "20"]
    found = report(tmp_path, *options, "--scores", str(scores), "--allocator", "clipper-light,clipper-heavy")
    light, heavy = (found["allocators"][f"clipper-{each}"]["corrected"] for each in ("light", "heavy"))
    assert light["accuracy"] == pytest.approx(0.5, abs=0.2) and heavy["accuracy"] == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--allocator", "none"], "allocator"),
        (["--profile", "none"], "profile"),
        (["--devices", "0"], "devices"),
        (["--slo", "-1"], "slo_s"),
        (["--period", "0"], "period_s"),
        (["--peak", "-2"], "peak"),
        (["--low", "9", "--peak", "8"], "low"),
        (["--hit-rate", "2"], "hit_rate"),
        (["--profile", "hadis-726"], "data"),
        (["--scores", "nowhere.csv"], "nowhere.csv"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        (["--profile", "hadis", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_named(options: list[str], named: str, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["simulate", "--profile", "diffserve-1", "--trace", str(trace), "--peak", "8"]
    assert main([*base, *options]) == 2
    assert named in capsys.readouterr().err
