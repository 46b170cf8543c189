"""The bench of LoRAs: the ratios it makes of given times, and that what it writes is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpaint.addons.layout import Layer, LoraLayout
from underpaint.addons.lora import read_lora
from underpaint.bench.addons import DISTINCT, RANK, REQUESTS, Painted, measure, to_json, write_random_loras

LAYOUT = LoraLayout("micro", 32, (Layer("a.attn.to_q", 4, 6), Layer("a.resnets.0.conv1", 4, 4, 3)), narrow=1)
LORAS = [f"l{i}" for i in range(DISTINCT)]


def test_ratios_are_those_of_the_replies() -> None:
    asked: list[str] = []

    def paint(number: int, lora: str) -> Painted:
        asked.append(lora)
        count = len(lora.split(",")) if lora else 0
        return Painted(denoise_ms=100 + 12 * count, total_ms=200 * (1 + count / 4), joined_at_once=True)

    report = to_json(measure(paint, LORAS, 3, lambda doing: None))
    assert report["lora_step_overhead"] == pytest.approx(0.12)
    assert report["workloads"] == {
        "0C0L": {"latency_ratio": 1.0},
        "0C1L": {"latency_ratio": 1.25},
        "0C2L": {"latency_ratio": 1.5},
    }
    assert asked.count("l0,l1") == 3
    assert asked.count("l7") == 1 + 3 * REQUESTS / DISTINCT


def test_a_lora_that_joins_late_spoils_the_measurement() -> None:
    with pytest.raises(RuntimeError, match="joined late"):
        measure(lambda number, lora: Painted(1, 1, joined_at_once=not lora), LORAS, 1, lambda doing: None)


def test_the_files_that_it_serves_are_sound(tmp_path: Path) -> None:
    names = write_random_loras(tmp_path, LAYOUT)
    assert len(names) == DISTINCT
    lora = read_lora(names[0], (tmp_path / f"{names[0]}.safetensors").read_bytes(), {"unet": LAYOUT})
    assert lora.unet is not None and lora.unet.shape == (RANK, LAYOUT.narrow_width)
