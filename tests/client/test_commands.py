"""The commands' arguments and what they make of them; painting itself needs a server."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.client.fake_transport import an_outcome
from underpaint.cli import main
from underpaint.client import cli
from underpaint.client.generate_command import plan_orders, steps_told
from underpaint.client.pictures import Picture
from underpaint.errors import InvalidArgument
from underpaint.front_door.outcome import ControlNetUse, LoraUse, Source
from underpaint.policies import POLICIES
from underpaint.requests import GenerateRequest


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(argv)


def test_every_field_of_the_request_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("generate", "--help")
    text = capsys.readouterr().out
    for declared in fields(GenerateRequest):
        if declared.name not in ("prompt", "output_format", "previews"):
            assert "--" + declared.name.replace("_", "-") in text


def test_options_become_wishes_of_their_types(tmp_path: Path) -> None:
    options = ("--seed", "7", "--num-inference-steps", "20", "--guidance-scale", "4", "--variant", "tiny-s")
    (order,) = plan_orders(parse("generate", "a red circle", "-o", str(tmp_path / "x.png"), *options))
    wishes = {"seed": 7, "num_inference_steps": 20, "guidance_scale": 4.0, "variant": "tiny-s"}
    assert order.wishes == {**wishes, "previews": False}
    assert order.path == tmp_path / "x.png"


def test_control_images_are_read_and_flags_are_flags(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        Picture(np.full((4, 4, 3), 7, np.uint8), an_outcome()).save(path)
    files = ("--control-image", *map(str, paths), "--controlnet-stale")
    (order,) = plan_orders(
        parse("generate", "x", "--controlnet", "layout,edges", *files, "-o", str(tmp_path / "x.png"))
    )
    assert order.wishes["control_image"].shape == (2, 4, 4, 3)
    assert order.wishes["controlnet_stale"] is True and "guidance_split" not in order.wishes


def test_several_pictures_have_consecutive_seeds(tmp_path: Path) -> None:
    options = ("-n", "3", "--seed", "7", "--request-id", "me", "-o", str(tmp_path / "x.png"))
    orders = plan_orders(parse("generate", "a red circle", *options))
    assert [order.wishes["seed"] for order in orders] == [7, 8, 9]
    assert [order.path.name for order in orders] == ["x-7.png", "x-8.png", "x-9.png"]
    assert [order.wishes["request_id"] for order in orders] == ["me-7", "me-8", "me-9"]


def test_a_seed_is_drawn_and_named() -> None:
    first, second = (plan_orders(parse("generate", "a red circle"))[0] for _ in range(2))
    assert first.path == Path(f"{first.wishes['seed']}.png") and first.wishes["seed"] != second.wishes["seed"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["-o", "picture.jpg"], "ends in .png"),
        (["-o", "no/such/folder/x.png"], "no/such/folder does not"),
        (["-n", "0"], "count: got 0"),
        (["--seed", "-1"], "seed: got -1"),
        (["--seed", str(2**63 - 1), "-n", "2"], "seed: got"),
        (["--guidance-scale", "nan"], "guidance_scale: got nan"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_sent(options: list[str], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        plan_orders(parse("generate", "a red circle", *options))


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="this is a folder"):
        plan_orders(parse("generate", "a red circle", "-o", str(tmp_path)))


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERPAINT_URL", "http://gpu-3:8000")
    assert parse("generate", "a red circle").url == "http://gpu-3:8000"
    assert parse("cancel", "me", "--url", "localhost:1").url == "localhost:1"


def test_errors_end_in_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["generate", "a red circle", "--url", "127.0.0.1:1", "-o", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr().err.strip()
    assert said == "underpaint: no server at 127.0.0.1:1; start one with `underpaint serve`"
    assert not list(tmp_path.iterdir())


def test_policies_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(POLICIES)
    assert all(len(line.split()) > 3 for line in lines)


def test_inspect(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = Picture(np.zeros((4, 4, 3), np.uint8), an_outcome(seed=99)).save(tmp_path / "x.png")
    assert main(["inspect", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 99


def test_inspect_what_is_no_picture_of_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    assert main(["inspect", str(tmp_path / "x.txt")]) == 2
    assert main(["inspect", str(tmp_path / "y.png")]) == 2
    said = capsys.readouterr().err
    assert "allowed: a PNG file" in said and "No such file" in said


def test_a_line_tells_what_was_spared_and_what_acted() -> None:
    assert steps_told(an_outcome(steps_run=25)) == "25 steps"
    source = Source(3, 0.99, 20, "a circle", "tiny-l", 4)
    loras = (LoraUse("palette", 0.8, 5), LoraUse("gone", 1.0, None))
    outcome = an_outcome(steps_run=5, source=source, loras=loras, controlnets=(ControlNetUse("layout", 1.0, 2),))
    assert steps_told(outcome) == "5 of 25 steps, from entry 3, palette from step 5, layout in 2"
