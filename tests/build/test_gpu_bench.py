"""The GPU benchmark runs through at miniature size on a CPU: every engine, both networks, and FAISS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY.parent / "client" / "gpu_bench" / "run.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.server
def test_a_dry_run(tmp_path: Path) -> None:
    out = tmp_path / "dry.json"
    # Not torch.compile: it wants a C++ compiler, and half a minute.
    done = run("--miniature", "--device", "cpu", "--engines", "onnxruntime,triton,torch", "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    measured = {(each["network"], each["engine"], each["batch"]) for each in report["unets"]}
    assert measured == {(n, e, b) for n in ("sd15", "sdxl") for e in ("onnxruntime", "triton", "torch") for b in (1, 2)}
    assert all(each["images_per_s"] > 0 and each["repeats"] >= 3 for each in report["unets"])
    assert [each["batch"] for each in report["faiss"]] == [1, 16]
    assert report["miniature"] is True
    assert report["versions"]["torch"] and report["machine"]["cpu"] and report["measured_at"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert "torch sees no GPU here; a dry run is --miniature --device cpu" in done.stderr
