"""``bench cache``: what it is measured with, and that the measuring itself is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from underpaint import cli
from underpaint.bench.cache.sizes import Served, replay
from underpaint.bench.cache.vectors import World
from underpaint.bench.cache.words import embed
from underpaint.cache.eviction import Strategy

# Vectors --------------------------------------------------------------------------------------------------------


def test_texts_are_as_far_from_images_as_the_description_says() -> None:
    world, random = World(512), np.random.default_rng(0)
    meanings = world.meanings(random, 5000)
    images = world.images(random, meanings)
    texts = world.texts(random, world.reworded(random, meanings[:500]))
    assert images.dtype == texts.dtype == np.float32
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(5000), abs=1e-5)
    cosines = texts @ images.T
    assert cosines.mean() == pytest.approx(0.08, abs=0.02)
    assert np.median(cosines.max(axis=1)) == pytest.approx(0.34, abs=0.03)
    assert np.median(np.partition(images[:500] @ images.T, -2, axis=1)[:, -2]) > 0.55, "images lie close together"


def test_the_same_seed_draws_the_same() -> None:
    draws = [World(256).meanings(np.random.default_rng([7, 3]), 5) for _ in range(2)]
    assert np.array_equal(*draws)


# Prompts --------------------------------------------------------------------------------------------------------


def test_words_tell_how_alike_prompts_are() -> None:
    prompts = ["a red fox in the snow", "A red fox, in the snow!", "a red fox in the rain", "a portrait of a king", ""]
    vectors = embed(prompts)
    assert vectors.dtype == np.float32
    to_first = vectors @ vectors[0]
    assert to_first[:2] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert 0.3 < to_first[2] < 0.9
    assert to_first[3] < 0.3
    assert np.array_equal(vectors[4], np.zeros(1024)), "no words, no likeness"


def angles(*degrees: float) -> np.ndarray:
    """Vectors in a plane; those 18.2° apart have a cosine of .95, 25.8°: .90, 49.4°: .65."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_a_stream_by_hand() -> None:
    """A miss; the same again (25); 20° off (20); 45° off (5); 80° off, a miss; again 20° off the first (20)."""
    served = replay(angles(0, 0, 20, 45, 80, -20), [6], lambda done: None)[6]
    for strategy in Strategy:
        assert served[strategy] == Served(pytest.approx(4 / 6), pytest.approx((25 + 20 + 5 + 20) / 300))


def test_strategies_differ_in_what_they_keep() -> None:
    """Room for two prompts: 0° is used, then 90° and 180° come, then 0° is asked for again."""
    stream = angles(0, 90, 0, 180, 0)
    served = replay(stream, [2], lambda done: None)[2]
    assert served[Strategy.FIFO].hit_rate == pytest.approx(1 / 5), "the oldest had gone"
    for strategy in (Strategy.LRU, Strategy.LFU, Strategy.LCBFU):
        assert served[strategy].hit_rate == pytest.approx(2 / 5), strategy


def test_lcbfu_goes_on_from_what_is_left() -> None:
    """Room for ten states: of the third prompt's five, four take the place of what was never used of the first, and one
    of the second's K = 5. So the first is still good for 25, and the second, 20° off, for 20."""
    served = replay(angles(0, 90, 0, 180, 0, 110), [2], lambda done: None)[2]
    assert served[Strategy.LCBFU] == Served(pytest.approx(3 / 6), pytest.approx((25 + 25 + 20) / 300))


def test_the_blocks_of_a_long_stream_fit_together() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    done: list[int] = []
    served = replay(vectors, [600], done.append)[600][Strategy.FIFO]
    assert sum(done) == 600
    hits, kept = 0, [0]
    for number in range(1, 600):
        best = max(float(vectors[number] @ vectors[each]) for each in kept)
        hits += best >= 0.65
        kept += [number] if best < 0.65 else []
    assert served.hit_rate == pytest.approx(hits / 600)


# The command ----------------------------------------------------------------------------------------------------


def bench(*words: str) -> int:
    return cli.main(["bench", "cache", *words])


def test_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--entries", "400", "--dimension", "128", "--json", str(tmp_path / "f.json")) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert (report["entries"], report["scopes"], report["dimension"]) == (400, 20, 128)
    assert report["recall_at_1"] == report["text_recall_at_1"] == 1.0, "20 to a scope are compared one by one"
    assert report["value_recall"] == pytest.approx(1.0)
    for name in ("lookup_p50_ms", "lookup_p99_ms", "insert_p99_ms", "start_s", "ready_s", "database_mb"):
        assert report[name] > 0, name
    assert report["memory_mb"] >= 0  # so few fit into what the process has anyway
    assert report["lookup_p50_ms"] <= report["lookup_p99_ms"]
    assert "lookup, text to image" in capsys.readouterr().out


@pytest.mark.server
def test_entries_through_triton(tmp_path: Path) -> None:
    words = ("--entries", "400", "--dimension", "128", "--through-triton", "--json", str(tmp_path / "f.json"))
    assert bench(*words) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["triton_recall_at_1"] == 1.0, "the server has the same entries"
    assert 0 < report["triton_lookup_p50_ms"] <= report["triton_lookup_p99_ms"]


def test_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--kill", "1", "--json", str(tmp_path / "f.json"), "--folder", str(tmp_path)) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert (report["rounds"], report["lost"], report["faults"]) == (1, 0, 0)
    assert report["acknowledged"] >= 3
    assert "0 lost" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [tmp_path / "f.json"], "stores are not left behind"


def test_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.csv").write_text(
        "Scores,Queries\n" + "".join(f"0.5,a red fox number {n % 40}\n" for n in range(200))
    )
    assert bench("--prompts", str(tmp_path / "p.csv"), "--json", str(tmp_path / "f.json")) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert (report["prompts"], [each["prompts"] for each in report["sizes"]]) == (200, [2, 6, 20, 60, 200])
    assert report["sizes"][-1]["lru"]["hit_rate"] >= 160 / 200
    assert "no model" in report["embedder"]
    assert "hit rate and steps saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--entries", "3"), "entries: got 3; allowed: 20 or more"),
        (("--entries", "100", "--dimension", "8"), "dimension: got 8; allowed: 128 or more"),
        (("--kill", "0"), "kill: got 0; allowed: 1 or more"),
        (("--prompts", "/nowhere.txt"), "prompts: got '/nowhere.txt'; allowed: a text file that can be read"),
        (("--prompts", "{empty}"), "allowed: a file with prompts in it"),
        (("--prompts", "{csv}", "--column", "Text"), "column: got 'Text'; allowed: a column of"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_mistakes_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "p.csv").write_text("Queries\na fox\n")
    paths = {"empty": str(tmp_path / "empty.txt"), "csv": str(tmp_path / "p.csv")}
    assert bench(*(word.format(**paths) for word in words)) == 2
    assert message in capsys.readouterr().err
