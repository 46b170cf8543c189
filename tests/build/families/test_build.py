"""From checkpoints to a repository: what is made, what is kept, and that nothing half-made is left behind."""

from __future__ import annotations

import errno
import shutil
from collections import Counter, namedtuple
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.build.families.conftest import Built, planned
from tests.conftest import REPOSITORY
from underpaint.build import family, making, retrieval
from underpaint.build.checkpoint import Checkpoint
from underpaint.build.family import build
from underpaint.build.making import Receipt
from underpaint.build.plan import Component, Plan
from underpaint.build.shapes import Shapes
from underpaint.cli import main
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument, NotFound, Unavailable, Unsupported

FAMILY = str(Path(__file__).with_name("unet_pair.toml"))


def receipts(built: Built) -> dict[str, Receipt]:
    folders = {component.name: built.repository / component.name / "1" for component in built.plan.components}
    return {name: receipt for name, folder in folders.items() if (receipt := Receipt.read(folder)) is not None}


def test_every_component_agrees_with_torch(unet_pair: Built) -> None:
    parities = {name: receipt.parity for name, receipt in receipts(unet_pair).items()}
    assert len(parities) == len(unet_pair.plan.components) == 8
    pixels = {name: apart for name, apart in parities.items() if name.endswith("_vae_decoder")}
    assert all(apart <= 1 for apart in pixels.values()), pixels
    assert all(apart < 1e-5 for name, apart in parities.items() if name not in pixels), parities
    assert all(
        component.name in line for component, line in zip(unet_pair.plan.components, unet_pair.lines[:-1], strict=True)
    )


def test_text_takes_the_ways_that_its_family_needs(unet_pair: Built) -> None:
    simple, double = (Shapes.read(unet_pair.repository, name) for name in ("mini15", "minixl"))
    assert list(simple.sequence_lengths) == ["input_ids"]
    assert list(double.sequence_lengths) == ["input_ids", "input_ids_2"]
    assert "pooled_projections" in double.unet.inputs
    config = (unet_pair.repository / "minixl" / "config.pbtxt").read_text()
    assert {"negative_pooled_prompt_embeds", "negative_input_ids_2", "pair_tokenizer"} <= set(config.split('"'))
    assert "mini15_tokenizer" in (unet_pair.repository / "mini15" / "config.pbtxt").read_text()


def test_attention_is_fused_at_open_sizes_too(unet_pair: Built) -> None:
    graph = onnx.load(unet_pair.repository / "minixl_unet" / "1" / "model.onnx", load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["MultiHeadAttention"] == 16, operators
    assert operators["Softmax"] == 0


def test_building_again_changes_nothing(unet_pair: Built) -> None:
    (unet_pair.repository / "generate" / "1" / "calibration.json").write_text("{}")
    before = {path: path.read_bytes() for path in unet_pair.repository.rglob("*") if path.is_file()}
    lines: list[str] = []
    build(unet_pair.plan, unet_pair.repository, fused=True, tell=lines.append)
    assert sum("unchanged" in line for line in lines) == len(unet_pair.plan.components)
    assert {path: path.read_bytes() for path in unet_pair.repository.rglob("*") if path.is_file()} == before
    assert not list(unet_pair.repository.parent.glob("*.building"))


def copying(built: Built, breaks_at: str = "") -> Callable[..., float]:
    """An export that takes what the fixture has made; and dies in the middle of a component."""

    def export(component: Component, _checkpoint: Any, _plan: Plan, _stage: Path, folder: Path, _fused: bool) -> float:
        shutil.copytree(built.repository / component.name / "1", folder)
        if component.name == breaks_at:
            raise KeyboardInterrupt
        return 0.0

    return export


def test_an_interrupted_build_leaves_nothing_behind_and_goes_on(
    unet_pair: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, lines = tmp_path / "repository", []
    monkeypatch.setattr(making, "_export", copying(unet_pair, breaks_at="mini15_vae_encoder"))
    with pytest.raises(KeyboardInterrupt):
        build(unet_pair.plan, repository, fused=True, tell=lines.append)
    assert not repository.exists()
    monkeypatch.setattr(making, "_export", copying(unet_pair))
    build(unet_pair.plan, repository, fused=True, tell=lines.append)
    assert sum("was finished" in line for line in lines) == 2
    assert {path.name for path in repository.iterdir()} == {path.name for path in unet_pair.repository.iterdir()}
    assert list(tmp_path.iterdir()) == [repository]


def test_other_weights_are_exported_anew(
    unet_pair: Built, unet_checkpoints: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(unet_checkpoints[0], tmp_path / "other")
    file = next((other / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    repository = shutil.copytree(unet_pair.repository, tmp_path / "repository")
    monkeypatch.setattr(making, "_export", copying(unet_pair))
    lines: list[str] = []
    build(planned([other, unet_checkpoints[1]]), repository, fused=True, tell=lines.append)
    assert [line.split()[1] for line in lines[:-1] if "unchanged" not in line] == ["mini15_unet:"]


def test_a_further_version_is_put_beside_what_is_served(
    unet_pair: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = shutil.copytree(unet_pair.repository, tmp_path / "repository")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    monkeypatch.setattr(making, "_export", copying(unet_pair))
    build(unet_pair.plan, repository, fused=True, tell=lambda line: None, version=2)
    components = [component.name for component in unet_pair.plan.components]
    assert {path.parent.name for path in repository.glob("*/2")} == {*components, "mini15_denoiser", "minixl_denoiser"}
    assert all((repository / name / "2" / "model.onnx").is_file() for name in components)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(NotFound, match="build version 1 first"):
        build(unet_pair.plan, tmp_path / "new", fused=True, tell=lambda line: None, version=2)


def test_embedders_are_made_where_the_recipe_names_them(
    unet_pair: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, str]] = []

    def towers(model: tuple[str, str], stage: Path, _sizes: Any) -> dict[str, float]:
        made.append(model)
        for name in ("embed_text", "embed_image"):
            shutil.copytree(REPOSITORY / name, stage / name)
        return {"embed_text": 1e-6, "embed_image": 2e-6}

    monkeypatch.setattr(making, "_export", copying(unet_pair))
    monkeypatch.setattr(retrieval, "load", lambda model, pretrained: (model, pretrained))
    monkeypatch.setattr(retrieval, "build_towers", towers)
    words = (REPOSITORY / "tiny_tokenizer" / "1" / "tokenizer.json").read_text()

    def write_tokenizer(_model: str, stage: Path) -> None:
        (stage / "embed_tokenizer" / "1").mkdir(parents=True)
        (stage / "embed_tokenizer" / "1" / "tokenizer.json").write_text(words)

    monkeypatch.setattr(retrieval, "write_tokenizer", write_tokenizer)
    recipe = replace(unet_pair.plan.recipe, clip=True, retrieval_model="ViT-L-14", retrieval_pretrained="openai")
    plan, lines = replace(unet_pair.plan, recipe=recipe), []
    monkeypatch.setattr(family, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"open_clip.* is missing: pip install 'underpaint\[retrieval\]'"):
        build(plan, tmp_path / "repository", fused=True, tell=lines.append)
    monkeypatch.setattr(family, "find_spec", lambda name: name)
    for _ in range(2):
        build(plan, tmp_path / "repository", fused=True, tell=lines.append)
    assert made == [("ViT-L-14", "openai")]
    assert "embed_text, embed_image: unchanged" in lines
    assert Deployment.load(tmp_path / "repository" / "generate" / "1").embedder
    assert (tmp_path / "repository" / "embed_tokenizer" / "1" / "model.py").is_file()
    assert (tmp_path / "repository" / "embed_tokenizer" / "1" / "tokenizer.json").read_text() == words


# What cannot be built -------------------------------------------------------------------------------------------


def test_a_broken_export_leaves_the_old_repository(
    unet_pair: Built, unet_checkpoints: Sequence[Path], tmp_path: Path
) -> None:
    cut = shutil.copytree(unet_checkpoints[0], tmp_path / "cut")
    file = next((cut / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1000])
    repository = shutil.copytree(unet_pair.repository, tmp_path / "repository")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    with pytest.raises(InvalidArgument, match=r"cut/unet cannot be loaded; fetch it again"):
        build(planned([cut, unet_checkpoints[1]]), repository, fused=True, tell=lambda line: None)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_that_are_not_all_there_are_not_made_up(
    unet_checkpoints: Sequence[Path], tmp_path: Path, part: str
) -> None:
    torn = shutil.copytree(unet_checkpoints[0], tmp_path / "torn")
    file = next((torn / part).glob("*.safetensors"))
    tensors = load_file(file)
    gone = [name for name in tensors if "attentions.0" in name or "layers.1" in name]
    save_file({name: tensor for name, tensor in tensors.items() if name not in gone}, file, {"format": "pt"})
    with pytest.raises(InvalidArgument, match=rf"torn/{part} lacks {len(gone)} weights of .*another architecture"):
        Checkpoint(torn).load(part, torch.float32)


def test_weights_of_another_shape_are_refused(unet_checkpoints: Sequence[Path], tmp_path: Path) -> None:
    mixed = shutil.copytree(unet_checkpoints[1], tmp_path / "mixed")
    shutil.copy(unet_checkpoints[0] / "unet" / "config.json", mixed / "unet")
    with pytest.raises(InvalidArgument, match=r"mixed/unet cannot be loaded; .*expected shape [^.]*\.Size[^.]*\.Size"):
        Checkpoint(mixed).load("unet", torch.float32)


def test_no_space_is_seen_before_anything_is_made(
    unet_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(Unavailable, match=r"has 0\.0 GiB left, the build needs"):
        build(unet_plan, tmp_path / "repository", fused=True, tell=lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O: No space left on device (os 28)")]
)
def test_a_disk_that_fills_up_on_the_way(
    unet_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def export(_component: Component, _checkpoint: Any, _plan: Plan, _stage: Path, folder: Path, _fused: bool) -> float:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(making, "_export", export)
    with pytest.raises(Unavailable, match=r"the disk of .*repository.building is full; make room and run the same"):
        build(unet_plan, tmp_path / "repository", fused=True, tell=lambda line: None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_repository_of_another_family_is_left_alone(unet_pair: Built, tmp_path: Path) -> None:
    door = tmp_path / "repository" / "generate" / "1"
    door.mkdir(parents=True)
    (door / "deployment.json").write_text('{"family": "tiny"}')
    with pytest.raises(InvalidArgument, match="of the family tiny'; allowed: a new folder, or a repository of pair"):
        build(unet_pair.plan, tmp_path / "repository", fused=True, tell=lambda line: None)


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (
            ("sdxl", "sdxl"),
            "got 'StableDiffusionXLPipeline'; allowed: StableDiffusionPipeline, which mini15",
        ),
        (("sd15",), "--from: got '1 folders'; allowed: 2, for mini15, minixl"),
        (("nowhere", "sdxl"), "allowed: a folder in the hub's layout, with model_index.json"),
    ],
)
def test_checkpoints_that_do_not_go_with_the_recipe(
    unet_checkpoints: Sequence[Path], capsys: pytest.CaptureFixture[str], sources: Sequence[str], complaint: str
) -> None:
    folders = [argument for name in sources for argument in ("--from", str(unet_checkpoints[0].parent / name))]
    assert main(["build", FAMILY, *folders, "--dry-run"]) == 2
    assert complaint in capsys.readouterr().err


def test_a_scheduler_that_is_replaced_is_named_and_one_that_is_not_served_refused(
    unet_checkpoints: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = shutil.copytree(unet_checkpoints[0], tmp_path / "foreign")
    config = foreign / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    folders = ["--from", str(foreign), "--from", str(unet_checkpoints[1])]
    assert main(["build", FAMILY, *folders, "--dry-run"]) == 2
    complaint = "mini15: scheduler: _class_name: got 'PNDMScheduler'; allowed: DDIMScheduler, "
    assert complaint in (said := capsys.readouterr().err)
    assert "the recipe's `scheduler` can replace it" in said
    replacing = tmp_path / "replacing.toml"
    text = Path(FAMILY).read_text()
    replacing.write_text(text.replace("loras = true", 'loras = true\nscheduler = { _class_name = "DDIMScheduler" }'))
    assert main(["build", str(replacing), *folders, "--dry-run"]) == 0
    line = "mini15: paints with DDIMScheduler; the checkpoint's own, PNDMScheduler, is not served\n"
    assert line in capsys.readouterr().out


def test_a_length_that_nobody_leaves_open(
    unet_checkpoints: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text(Path(FAMILY).read_text().replace("loras = true", "max_sequence_length = 200"))
    folders = ["--from", str(unet_checkpoints[0]), "--from", str(unet_checkpoints[1])]
    assert main(["build", str(recipe), *folders, "--dry-run"]) == 2
    assert "max_sequence_length: got 200; allowed: 0 for StableDiffusionPipeline" in capsys.readouterr().err


def test_a_size_that_cannot_be_halved_so_often(
    unet_checkpoints: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "odd.toml"
    recipe.write_text(Path(FAMILY).read_text().replace("[96, 64]", "[100, 64]"))
    assert main(["build", str(recipe), "--from", str(unet_checkpoints[0]), "--from", str(unet_checkpoints[1])]) == 2
    assert "mini15: sizes: got '100x64'; allowed: multiples of 8" in capsys.readouterr().err


def test_an_unknown_family_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "sd99"]) == 2
    assert "family: got 'sd99'; allowed: " in (said := capsys.readouterr().err)
    assert "sdxl" in said


# What would be built --------------------------------------------------------------------------------------------


def test_a_dry_run_needs_no_weights_and_makes_nothing(
    unet_checkpoints: Sequence[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = [
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("*.safetensors"))
        for folder in unet_checkpoints
    ]
    folders = [argument for folder in bare for argument in ("--from", str(folder))]
    assert main(["build", FAMILY, *folders, "--dry-run", "--repository", str(tmp_path / "repository")]) == 0
    said = capsys.readouterr().out
    assert "mini15_unet" in said
    assert "twins for LoRAs: lora, locon" in said
    assert "memory to build" in said
    assert not (tmp_path / "repository").exists()


def test_the_plan_counts_what_is_written(unet_pair: Built) -> None:
    for component in unet_pair.plan.components:
        weights = (unet_pair.repository / component.name / "1" / "model.safetensors").stat().st_size
        # Last layers that nobody reads are planned but not written; of two layers, that is much.
        assert 0.8 * component.bytes < weights < 1.1 * component.bytes, component.name
    written = sum(path.stat().st_size for path in unet_pair.repository.rglob("*") if path.is_file())
    assert unet_pair.plan.disk_bytes > 0.5 * written  # graphs are not small beside miniatures
