"""What the hub answers, said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from underpaint.build import fetch as fetching
from underpaint.build.build_cli import find_recipe
from underpaint.build.fetch import fetch
from underpaint.cli import main
from underpaint.errors import InvalidArgument, Unavailable, UnderpaintError

SDXL = find_recipe("sdxl").variants[0]
LIGHTNING = find_recipe("sdxl-lightning").variants[0]


def raised(kind: type[Exception]) -> Exception:
    """Without the response that it came with, whose class changes with the client's version."""
    error = kind.__new__(kind)
    Exception.__init__(error, "what the hub says")
    return error


@pytest.mark.parametrize(
    ("error", "kind", "complaint"),
    [
        (raised(errors.GatedRepoError), Unavailable, "is gated: accept its licence at https"),
        (raised(errors.RepositoryNotFoundError), InvalidArgument, "allowed: what the hub has"),
        (raised(errors.LocalEntryNotFoundError), Unavailable, "could not be fetched whole"),
        (ConnectionError("reset"), Unavailable, "run the same command again, which goes on"),
    ],
)
def test_what_the_hub_refuses(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[UnderpaintError], complaint: str
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(fetching, "hf_hub_download", refuse)
    with pytest.raises(kind, match=complaint):
        fetch(SDXL)


# What SD 3.5's repository holds, which has everything twice, and the rarer names that others give to copies.
ON_THE_HUB = {
    "model_index.json": True,
    "sd3.5_large.safetensors": False,
    "text_encoders/t5xxl_fp16.safetensors": False,
    "scheduler/scheduler_config.json": True,
    "safety_checker/model.safetensors": False,
    "text_encoder/config.json": True,
    "text_encoder/model.safetensors": True,
    "text_encoder/model.fp16.safetensors": False,
    "text_encoder_3/model-00001-of-00002.safetensors": True,
    "text_encoder_3/model.safetensors.index.json": True,
    "text_encoder_3/model.fp16-00001-of-00002.safetensors": False,
    "text_encoder_3/model.safetensors.index.fp16.json": False,
    "tokenizer/merges.txt": True,
    "tokenizer_3/spiece.model": True,
    "transformer/diffusion_pytorch_model.safetensors": True,
    "unet/diffusion_pytorch_model.non_ema.safetensors": False,
    "unet/openvino_model.bin": False,
    "unet/model.onnx": False,
}
COMPONENTS = ("scheduler", "text_encoder", "text_encoder_3", "tokenizer", "tokenizer_3", "transformer", "unet")


def test_what_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = {name: ["library", "Class"] for name in (*COMPONENTS, "safety_checker")}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AnyPipeline", **index}))
    asked: list[tuple[str, str]] = []
    fetched: list[set[str]] = []

    def snapshot(repo_id: str, revision: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repo_id, revision))
        fetched.append(
            set(filter_repo_objects(ON_THE_HUB, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        )
        return str(tmp_path)

    def file(repo_id: str, filename: str, revision: str) -> str:
        return str(tmp_path / filename)

    monkeypatch.setattr(fetching, "snapshot_download", snapshot)
    monkeypatch.setattr(fetching, "hf_hub_download", file)
    assert fetch(SDXL).network_file is None
    assert fetch(LIGHTNING).network_file == tmp_path / LIGHTNING.network_file
    assert fetch(LIGHTNING, with_weights=False).network_file is None
    assert all(each == (SDXL.repo_id, SDXL.revision) for each in asked)
    wanted = {name for name, is_wanted in ON_THE_HUB.items() if is_wanted} - {"model_index.json"}
    assert fetched[0] == wanted
    assert fetched[2] == {name for name in wanted if not name.endswith(".safetensors")}


def test_every_recipe_pins_what_it_fetches() -> None:
    for family in ("sd15", "sdxl", "sdxl-turbo", "sdxl-lightning", "sd-turbo"):
        for variant in find_recipe(family).variants:
            assert len(variant.revision) == 40, variant.name


def test_families_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", "list"]) == 0
    assert "sdxl-turbo" in capsys.readouterr().out
    assert main(["families", "show", "sdxl"]) == 0
    said = capsys.readouterr().out
    assert SDXL.repo_id in said
    assert SDXL.revision in said
    assert "1024x1024" in said
