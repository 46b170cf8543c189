"""The GPU benchmark runs through at miniature size on a CPU: every engine, both networks, and FAISS."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY.parent / "client" / "gpu_bench" / "run.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.server
def test_a_dry_run(tmp_path: Path) -> None:
    """Of what a CPU has. Not of torch.compile, which wants a C++ compiler, and half a minute."""
    out = tmp_path / "dry.json"
    engines = "onnxruntime,onnxruntime-nhwc,triton,torch"
    done = run("--miniature", "--device", "cpu", "--engines", engines, "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert report["left_out"] == [{"what": "onnxruntime-nhwc", "why": "an option of CUDA's"}]
    measured = {(each["network"], each["engine"], each["size"], each["batch"]) for each in report["unets"]}
    whole = product(("sd15", "sdxl"), ("onnxruntime", "triton", "torch"), (64, 96), (1, 2))
    assert measured == set(whole)
    assert all(each["images_per_s"] > 0 and each["repeats"] >= 3 for each in report["unets"])
    assert all(each["ceiling_share"] > 0 for each in report["unets"])
    assert all(each["over_smallest_batch"] == 1 for each in report["unets"] if each["batch"] == 1)
    assert [each["batch"] for each in report["faiss"]] == [1, 16]
    assert report["miniature"] is True
    assert report["versions"]["torch"] and report["machine"]["cpu"] and report["measured_at"]


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "dry.json"
    options = ("--miniature", "--device", "cpu", "--networks", "sd15", "--engines", "torch", "--within", "0")
    assert run(*options, "--out", str(out)).returncode == 0
    report = json.loads(out.read_text())
    assert report["unets"] == []
    assert report["left_out"] == [{"what": f"sd15, torch, {size} px", "why": "no time"} for size in (64, 96)]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert "torch sees no GPU here; a dry run is --miniature --device cpu" in done.stderr
