"""Many LoRAs: who asks for what, and what is made of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from underpaint.addons.layout import Layer, LoraLayout
from underpaint.addons.lora import read_lora
from underpaint.bench.addons import loras
from underpaint.bench.addons.costs import write_random_loras
from underpaint.bench.addons.loras_cli import _give_memory
from underpaint.errors import Unavailable

NAMES = [f"l{i}" for i in range(200)]


def test_few_are_wanted_often_and_most_of_them_seldom() -> None:
    wanted = loras.wishes(NAMES, 20_000)
    shares = [sum(len(each) == count for each in wanted) / len(wanted) for count in range(3)]
    assert shares == pytest.approx(loras.HAVE_LORAS, abs=0.01)
    assert all(len(set(each)) == len(each) for each in wanted)
    asked = Counter(name for each in wanted for name in each)
    assert asked.most_common(1)[0][0] == "l0"
    assert 0.45 < sum(asked[name] for name in NAMES[:10]) / asked.total() < 0.55
    assert loras.wishes(NAMES, 50) == loras.wishes(NAMES, 50)


def test_what_happened_is_counted_and_a_failure_ends_nothing() -> None:
    def paint(number: int, wanted: Sequence[str]) -> loras.Answer:
        if wanted == ("broken",):
            raise Unavailable("it did not come")
        step = {(): (), ("hot",): (0,), ("cold",): (2,), ("hot", "cold"): (2, 2), ("gone",): (None,)}[tuple(wanted)]
        return loras.Answer(step, 40.0 if "cold" in wanted else 0.0, 100.0)  # type: ignore[arg-type]

    wanted = [("hot",), (), ("cold",), ("broken",), ("hot", "cold"), ("gone",), ("hot",)] * 10
    said: list[str] = []
    report = loras.to_json(loras.run(paint, wanted, 4, said.append))
    assert (report["requests"], report["failures"], report["never_joined"]) == (70, 10, 10)
    assert report["failed"][0] == "broken: it did not come"
    counts = [report[kind]["requests"] for kind in ("without_loras", "joined_at_0", "joined_late")]
    assert counts == [10, 20, 20]
    assert report["held"] == {"requests": 20, "ms": {"p50": 40, "p90": 40, "p99": 40, "max": 40}}


def test_the_files_are_sound_and_of_the_ranks_in_turn(tmp_path: Path) -> None:
    layout = LoraLayout("base", 16, (Layer("attn.to_q", 8, 8), Layer("attn.proj_in", 8, 4)), narrow=2)
    names = write_random_loras(tmp_path, layout, 4, (4, 8))
    read = [read_lora(name, (tmp_path / f"{name}.safetensors").read_bytes(), {"unet": layout}) for name in names]
    assert [lora.rank for lora in read] == [4, 8, 4, 8]
    assert len({lora.fingerprint for lora in read}) == 4


def test_the_memory_is_what_the_denoisers_config_says(tmp_path: Path) -> None:
    committed = Path(__file__).parents[3] / "model_repository" / "tiny-l_denoiser" / "config.pbtxt"
    config = tmp_path / "config.pbtxt"
    config.write_text(committed.read_text())
    _give_memory(config, 12.5)
    changed = set(config.read_text().splitlines()) - set(committed.read_text().splitlines())
    assert changed == {'    string_value: "12.5"'}
