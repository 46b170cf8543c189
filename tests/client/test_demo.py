"""The contact sheet and the table, from made-up pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from tests.client.fake_transport import an_outcome
from underpaint.client.contact_sheet import FRAME, Row, contact_sheet, magnify, wrap
from underpaint.client.demo import Wave, origin, reuse_summary, summary, table
from underpaint.client.pictures import Picture
from underpaint.front_door.outcome import Source

RED = np.full((64, 64, 3), (255, 0, 0), np.uint8)
BLUE = np.full((64, 64, 3), (0, 0, 255), np.uint8)


@pytest.mark.parametrize(("side", "shown"), [(64, FRAME), (100, 200), (FRAME, FRAME), (1024, FRAME)])
def test_pictures_fill_their_frames_in_whole_multiples(side: int, shown: int) -> None:
    assert magnify(np.zeros((side, side, 3), np.uint8)).size == (shown, shown)


def test_magnified_pixels_stay_square() -> None:
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    shown = np.asarray(magnify(np.stack([checks] * 3, axis=-1)))
    assert (shown[:: FRAME // 64, :: FRAME // 64, 0] == checks).all()


def test_every_picture_is_on_the_sheet() -> None:
    captions = [f"caption {i}" for i in range(8)]
    sheet = contact_sheet("title", captions, [Row("tiny-l", "25 steps", [RED] * 8), Row("tiny-s", "", [BLUE] * 8)])
    pixels = np.asarray(sheet)
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(axis=-1).sum() == 8 * FRAME * FRAME


def test_a_frame_without_a_picture_says_why() -> None:
    def ink(without: str) -> int:
        sheet = contact_sheet("", ["", ""], [Row("", "", [RED, None], without)])
        return int((np.asarray(sheet) < 200).all(axis=-1).sum())

    assert ink("noise") > ink("") == 0


def test_one_caption_makes_one_column() -> None:
    one, four = (contact_sheet("", ["x"] * n, [Row("a", "b", [RED] * n)]).width for n in (1, 4))
    assert one < four


def test_captions_break_between_words() -> None:
    font = ImageFont.load_default(18)
    lines = wrap("a small red circle above a large striped blue square, on a yellow background", font, 256, 4)
    assert len(lines) > 1 and all(font.getlength(line) <= 256 for line in lines)
    assert wrap("one two three four five six", font, 40, 2)[-1].endswith("…")
    assert wrap("", font, 40, 2) == [""]


def test_the_table_has_a_line_a_picture() -> None:
    pictures = [Picture(RED, an_outcome(seed=seed, prompt="a prompt " * 20)) for seed in (1, 200)]
    unit, head, *body = table(pictures).splitlines()
    assert "milliseconds" in unit
    assert head.split() == [
        *("prompt", "variant", "seed", "steps"),
        *("admission", "encode", "queue", "denoise", "decode", "total"),
    ]
    assert len(body) == 2 and body[1].split()[-8:] == ["200", "25", "0.1", "2.0", "0.3", "400.0", "5.0", "407.4"]
    assert len({len(line) for line in (unit, head, *body)}) == 1


def test_the_summary_counts() -> None:
    wave = Wave(tuple(Picture(RED, an_outcome()) for _ in range(8)), 2.0)
    assert summary(wave) == "tiny-l: 8 pictures at once in 2.00 s, 4.0 a second"


def a_source() -> Source:
    return Source(entry_id=3, similarity=0.913, skip=2, prompt="a red disc", variant="tiny-l", seed=5)


def test_a_hit_says_what_it_was_made_from() -> None:
    hit = an_outcome(variant="tiny-s", num_inference_steps=4, steps_run=2, steps_skipped=2, source=a_source())
    assert origin(hit) == "hit at 0.91: tiny-s skips 2 of 4 steps, from: a red disc"
    assert origin(an_outcome()) == "miss: tiny-l from noise, 25 steps"


def test_the_summary_of_reuse_counts_hits() -> None:
    large = Wave((Picture(RED, an_outcome()),) * 4, 4.0)
    outcomes = (an_outcome(source=a_source()), an_outcome(miss="easy"), an_outcome(miss="empty"))
    similar = Wave(tuple(Picture(RED, outcome) for outcome in outcomes), 1.5)
    assert reuse_summary(similar, large) == (
        "modm: 1 of 3 similar prompts start from a cached picture, 1 more are easy enough for the small variant; "
        "2.0 times as fast as tiny-l paints in full"
    )
