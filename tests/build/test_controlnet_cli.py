"""``underpaint controlnet``: what there is, what is refused, and that nothing half-written is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from safetensors.numpy import load_file, save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.conftest import REPOSITORY
from underpaint.cli import main

_PARTS = ("unet", "text_encoder", "vae_encoder", "vae_decoder", "denoiser")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A variant's components and its ControlNets."""
    copy = tmp_path / "model_repository"
    names = [f"tiny-l_{part}" for part in _PARTS] + ["controlnet_layout", "controlnet_edges", "tiny_tokenizer"]
    for name in names:
        shutil.copytree(REPOSITORY / name, copy / name)
    return copy


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as diffusers saves a ControlNetModel."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(REPOSITORY / "controlnet_edges" / "1" / name, folder)
    return folder


def test_those_that_there_are_are_listed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["controlnet", "list", "--json", "--repository", str(repository)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["bases"], each["problem"]) for each in listed] == [
        ("edges", ["tiny-l"], None),
        ("layout", ["tiny-l"], None),
    ]


def test_one_is_added_and_removed(repository: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--repository", str(repository)]
    assert main(["controlnet", "add", str(trained), *where]) == 0
    place = repository / "controlnet_mine"
    added = {path.name for path in (place / "1").iterdir()}
    assert added == {"config.json", "diffusion_pytorch_model.safetensors", "model.onnx"}
    like = (repository / "controlnet_edges" / "config.pbtxt").read_text()
    config = text_format.Parse((place / "config.pbtxt").read_text(), ModelConfig())
    assert config == text_format.Parse(like.replace("controlnet_edges", "controlnet_mine"), ModelConfig())
    assert main(["controlnet", "remove", "mine", *where]) == 0
    assert not place.exists()


def damaged(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).reshape(-1)[0] = float("nan")
    save_file(tensors, path)


def of_another_shape(folder: Path) -> None:
    changed(folder, layers_per_block=2)


def of_another_class(folder: Path) -> None:
    changed(folder, _class_name="T2IAdapter")


def changed(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_sense(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def of_another_kind(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def without_weights(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damaged, "that diffusers can load"),
        (not_finite, "not finite"),
        (of_another_shape, "got 'layers_per_block (2, 2)'; allowed: layers_per_block (1, 1) for tiny-l"),
        (without_sense, "the config.json of a ControlNetModel"),
        (of_another_kind, "the config.json of a ControlNetModel"),
        (of_another_class, "T2IAdapter, not a ControlNetModel"),
        (without_weights, "there is no diffusion_pytorch_model.safetensors"),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_is_left(
    repository: Path, trained: Path, harm: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(trained)
    before = sorted(repository.iterdir())
    assert main(["controlnet", "add", str(trained), "--repository", str(repository)]) == 2
    assert said in capsys.readouterr().err
    assert sorted(repository.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "{trained}", "--name", "edges"], "--replace"),
        (["add", "{trained}", "--name", "../edges"], "a name of 1 to 128"),
        (["remove", "nobody"], "there are: edges, layout"),
    ],
)
def test_names_are_held_to_what_there_is(
    repository: Path, trained: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(trained=trained) for each in arguments]
    assert main(["controlnet", *given, "--repository", str(repository)]) == 2
    assert said in capsys.readouterr().err
