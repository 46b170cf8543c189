"""The bench of add-ons: the ratios it makes of given times, and that what it writes is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpaint.addons.layout import Layer, LoraLayout
from underpaint.addons.lora import read_lora
from underpaint.bench.addons.costs import (
    AT_ONCE,
    BARE,
    DISTINCT,
    RANK,
    REQUESTS,
    Painted,
    Report,
    Times,
    Workload,
    measure,
    to_json,
    write_random_loras,
)

LAYOUT = LoraLayout("micro", 32, (Layer("a.attn.to_q", 4, 6), Layer("a.resnets.0.conv1", 4, 4, 3)), narrow=1)
LORAS = [f"l{i}" for i in range(DISTINCT)]
CONTROLNETS = ["a", "b", "c"]


def test_ratios_are_those_of_the_replies() -> None:
    asked: list[Workload] = []

    def paint(number: int, workload: Workload) -> Painted:
        asked.append(workload)
        loras, controlnets = len(workload.loras), len(workload.controlnets)
        return Painted(100 + 12 * loras, 200 * (1 + loras / 4 + controlnets), joined_at_once=True)

    report = measure(paint, alone, alone, CONTROLNETS, LORAS, 3, lambda doing: None)
    figures = to_json(report)
    assert figures["lora_step_overhead"] == pytest.approx(0.12)
    ratios = {name: each["latency_ratio"] for name, each in figures["workloads"].items()}  # type: ignore[attr-defined]
    assert ratios == {"0C0L": 1.0, "1C0L": 2.0, "0C1L": 1.25, "1C1L": 2.25, "2C2L": 3.5, "3C2L": 4.5}
    assert asked.count(Workload(tuple(CONTROLNETS), ("l0", "l1"))) == 1 + 3 * (1 + AT_ONCE)
    assert asked.count(Workload(loras=("l7",))) == 1 + (1 + 3) * REQUESTS / DISTINCT
    assert len(report.overheads) == 3
    assert report.times["3C2L"].serial_s == [1.0, 1.0, 1.0]
    assert all(len(each.served_s) == 3 for each in report.times.values())


def alone(number: int, workload: Workload) -> float:
    return 1.0


def test_throughput_is_held_against_the_serial_ways() -> None:
    times = Times([100.0], [0.5], [1.0], [4.0])
    figures = to_json(Report(0.1, (0.1,), {BARE: times}))["workloads"][BARE]  # type: ignore[index]
    assert (figures["throughput_ratio_to_serial"], figures["throughput_ratio_to_diffusers"]) == (2.0, 8.0)


def test_a_lora_that_joins_late_spoils_the_measurement() -> None:
    def paint(number: int, workload: Workload) -> Painted:
        return Painted(1, 1, joined_at_once=not workload.loras)

    with pytest.raises(RuntimeError, match="joined late"):
        measure(paint, alone, alone, CONTROLNETS, LORAS, 1, lambda doing: None)


def test_the_files_that_it_serves_are_sound(tmp_path: Path) -> None:
    names = write_random_loras(tmp_path, LAYOUT)
    assert len(names) == DISTINCT
    lora = read_lora(names[0], (tmp_path / f"{names[0]}.safetensors").read_bytes(), {"unet": LAYOUT})
    assert lora.unet is not None and lora.unet.shape == (RANK, LAYOUT.narrow_width)
