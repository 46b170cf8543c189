"""What trtexec is told follows from the graph's real inputs; a plan is only used where it was built for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from tests.conftest import REPOSITORY
from underpaint.build.plan_files import Label, build_plan, check, plan_name
from underpaint.build.plans import build_plans, check_plans, engines, with_plan
from underpaint.build.recipes import FamilyRecipe, load_recipe
from underpaint.build.repository import FAMILIES
from underpaint.build.tensorrt import Machine, Recipe, Span, graph_hash
from underpaint.cli import main
from underpaint.errors import InvalidArgument, NotFound, Unavailable, Unsupported
from underpaint.triton import model_config as mc

GOLDEN = Path(__file__).with_name("trtexec_lines.txt")
MACHINE = Machine("10.16.1", "9.0")
SDXL = [{"height": 128, "width": 128}, {"height": 104, "width": 152}]


def graph(folder: Path, **inputs: list[int | str]) -> Path:
    """A graph that takes these inputs, float32, and returns the first."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()]
    first = next(iter(inputs))
    node = helper.make_node("Identity", [first], ["out"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, inputs[first])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", values, [out])), path)
    return path


@pytest.fixture
def unet(tmp_path: Path) -> Path:
    return graph(
        tmp_path,
        sample=["batch", 4, "height", "width"],
        timestep=["batch"],
        encoder_hidden_states=["batch", 77, 2048],
        pooled_projections=["batch", 1280],
    )


def lines(recipe: Recipe, folder: Path) -> str:
    command = recipe.command(Path("model_sm90.plan"), Path("timing.cache"))
    return shlex.join(command).replace(str(folder), "MODEL").replace(" --", "\n  --") + "\n"


def recipes(unet: Path) -> dict[str, Recipe]:
    """By title; the tiny family's are of the committed graphs."""
    tiny = REPOSITORY / "tiny-l_unet" / "1"
    return {
        "SDXL's UNet, two sizes, 8 requests under guidance": Recipe.of(unet, Span.batch(16), SDXL),
        "tiny-l's UNet": Recipe.of(tiny / "model.onnx", Span.batch(32)),
    }


def test_lines_are_what_they_were(unet: Path) -> None:
    written = "".join(f"# {title}\n{_portable(recipe, unet)}\n" for title, recipe in recipes(unet).items())
    assert written == GOLDEN.read_text()


def _portable(recipe: Recipe, unet: Path) -> str:
    folder = unet.parent if recipe.graph == unet else recipe.graph.parents[2]
    return lines(recipe, folder)


def test_every_input_has_a_shape_that_the_graph_allows(unet: Path) -> None:
    for recipe in recipes(unet).values():
        real = {
            each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]
            for each in onnx.load(recipe.graph, load_external_data=False).graph.input
        }
        command = recipe.command(Path("p"), Path("t"))
        told = [part for part in command if re.match(r"--(min|opt|max)Shapes=", part)]
        assert len(told) == 3 * len(recipe.profiles)
        for part in told:
            shapes = dict(each.split(":") for each in part.partition("=")[2].split(","))
            assert shapes.keys() == real.keys()
            for name, text in shapes.items():
                sides = [int(side) for side in text.split("x")]
                assert len(sides) == len(real[name])
                fixed = [(side, dim) for side, dim in zip(sides, real[name], strict=True) if isinstance(dim, int)]
                assert all(side == dim for side, dim in fixed)


def test_each_size_is_a_profile(unet: Path) -> None:
    command = Recipe.of(unet, Span.batch(16), SDXL).command(Path("p"), Path("t"))
    first, second = (command[command.index(f"--profile={n}") :][1:4] for n in (0, 1))
    assert [part.split(",")[0] for part in first] == [
        "--minShapes=sample:1x4x128x128",
        "--optShapes=sample:8x4x128x128",
        "--maxShapes=sample:16x4x128x128",
    ]
    assert all(",timestep:" in part and "x4x104x152" in part for part in second)


def test_a_graph_that_has_no_free_size_has_one_profile(tmp_path: Path) -> None:
    ids = graph(tmp_path, input_ids=["batch", 77])
    recipe = Recipe.of(ids, Span(1, 4, 8), SDXL)
    assert len(recipe.profiles) == 1
    assert "--profile=0" not in recipe.command(Path("p"), Path("t"))


def test_a_dimension_that_nothing_is_said_of_is_named(unet: Path) -> None:
    with pytest.raises(InvalidArgument, match="dimensions: got 'height, width'; allowed: a range for each"):
        Recipe.of(unet, Span.batch(4))


def test_ranges_rise() -> None:
    with pytest.raises(InvalidArgument, match="range of a dimension"):
        Span(2, 1, 4)
    assert Span.batch(1) == Span(1, 1, 1)


def test_there_has_to_be_a_graph(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is missing: train or export the family"):
        Recipe.of(tmp_path / "model.onnx", Span.batch(4))


# Plans --------------------------------------------------------------------------------------------------------------


def trtexec(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A trtexec of our own on PATH."""
    path = folder / "trtexec"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


WRITES = (
    'for each in "$@"; do case $each in --saveEngine=*) echo plan > "${each#*=}";; esac; done; echo x >> "$0.calls"'
)


def test_a_plan_is_built_once_and_labelled(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    trtexec(tools, monkeypatch, WRITES)
    recipe = Recipe.of(unet, Span.batch(16), SDXL)
    for _ in range(2):
        plan = build_plan(recipe, tmp_path, MACHINE, tmp_path / "timing.cache")
    assert plan.name == plan_name(MACHINE) == "model_sm90.plan"
    assert len((tools / "trtexec.calls").read_text().split()) == 1
    label = Label.read(plan)
    assert (label.tensorrt, label.compute_capability, label.graph) == ("10.16.1", "9.0", graph_hash(unet))
    check(plan, recipe, MACHINE)


@pytest.mark.parametrize(
    ("machine", "complaint"),
    [
        (Machine("11.1.0", "9.0"), "TensorRT: got '10.16.1'; allowed: 11.1.0, which is here; build it again"),
        (Machine("10.16.1", "8.9"), "compute capability: got '9.0'; allowed: 8.9, which is here; build it again"),
    ],
)
def test_a_plan_of_another_machine_is_refused(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, complaint: str
) -> None:
    trtexec(tmp_path, monkeypatch, WRITES)
    recipe = Recipe.of(unet, Span.batch(16), SDXL)
    plan = build_plan(recipe, tmp_path, MACHINE, tmp_path / "timing.cache")
    with pytest.raises(InvalidArgument, match=re.escape(complaint)):
        check(plan, recipe, machine)


def test_a_plan_of_another_graph_or_other_sizes_is_refused(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trtexec(tmp_path, monkeypatch, WRITES)
    plan = build_plan(Recipe.of(unet, Span.batch(16), SDXL), tmp_path, MACHINE, tmp_path / "timing.cache")
    with pytest.raises(InvalidArgument, match="another graph or for other sizes"):
        check(plan, Recipe.of(unet, Span.batch(8), SDXL), MACHINE)


def test_a_plan_for_smaller_batches_is_refused(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trtexec(tmp_path, monkeypatch, WRITES)
    plan = build_plan(Recipe.of(unet, Span.batch(16), SDXL), tmp_path, MACHINE, tmp_path / "timing.cache")
    with pytest.raises(InvalidArgument, match="largest batch: got 16; allowed: 32, the model's max_batch_size; build"):
        check(plan, Recipe.of(unet, Span.batch(32), SDXL), MACHINE)


def test_without_a_label_nobody_knows(unet: Path, tmp_path: Path) -> None:
    recipe, plan = Recipe.of(unet, Span.batch(16), SDXL), tmp_path / "model_sm90.plan"
    with pytest.raises(NotFound, match="build it with --backend tensorrt"):
        check(plan, recipe, MACHINE)
    plan.write_bytes(b"plan")
    with pytest.raises(NotFound, match="build it again"):
        check(plan, recipe, MACHINE)
    plan.with_suffix(".json").write_text(json.dumps({"key": "x"}))
    with pytest.raises(InvalidArgument, match="allowed: a JSON object of"):
        check(plan, recipe, MACHINE)


def test_without_trtexec_the_line_is_told(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"no trtexec on PATH; .* run: trtexec --onnx="):
        build_plan(Recipe.of(unet, Span.batch(16), SDXL), tmp_path, MACHINE, tmp_path / "timing.cache")


def test_a_build_that_fails_leaves_nothing(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trtexec(tmp_path, monkeypatch, f"{WRITES}; echo '[E] out of memory'; exit 1")
    with pytest.raises(Unavailable, match=r"trtexec failed for .*: \[E\] out of memory"):
        build_plan(Recipe.of(unet, Span.batch(16), SDXL), tmp_path, MACHINE, tmp_path / "timing.cache")
    assert not list(tmp_path.glob("*.plan")) + list(tmp_path.glob(".*.plan"))


# A repository -------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The models of tiny-m, their graphs, but for twins, as if onnxruntime's own operators were ONNX's."""
    folder = tmp_path / "repository"
    for model in REPOSITORY.glob("tiny-m_*"):
        shutil.copytree(model, folder / model.name)
    for path in folder.glob("*/1/model.onnx"):
        graph = onnx.load(path, load_external_data=False)
        for node in graph.graph.node:
            node.domain = ""
        path.write_bytes(graph.SerializeToString())
    return folder


@pytest.fixture
def recipe() -> FamilyRecipe:
    tiny = load_recipe(FAMILIES / "tiny.toml")
    only = tuple(variant for variant in tiny.variants if variant.name == "tiny-m")
    return replace(tiny, variants=only, small="tiny-m", large="tiny-m", refiner="")


def test_a_repository_is_told_line_by_line_where_there_is_no_trtexec(
    repository: Path, recipe: FamilyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    assert not build_plans(recipe, repository, said.append)
    told = [line for line in said if line.startswith("trtexec ")]
    assert len(told) == len(list(engines(recipe, repository)))
    unet = next(line for line in told if "tiny-m_unet/1/model.onnx" in line)
    assert "--maxShapes=sample:32x" in unet
    assert any("tiny-m_vae_encoder/1/model.onnx" in line for line in told)


def test_graphs_with_onnxruntimes_own_operators_are_refused(recipe: FamilyRecipe) -> None:
    with pytest.raises(
        InvalidArgument, match=r"operators: got 'com.microsoft'; .* build the family with --backend ten"
    ):
        build_plans(recipe, REPOSITORY, print)


def test_a_repository_is_built_where_there_is_trtexec(
    repository: Path, recipe: FamilyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: the second time, nothing is left to do."""
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 9.0\n")
    smi.chmod(0o755)
    says = 'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v101601]"'
    trtexec(tmp_path / "bin", monkeypatch, f'if [ "$1" = --help ]; then {says}; exit; fi; {WRITES}')
    twin = repository / "tiny-m_unet_lora" / "config.pbtxt"
    before = twin.read_text()
    assert any("there is no " in line for line in check_plans(recipe, repository))
    for _ in range(2):
        assert build_plans(recipe, repository, print)
    built = list(engines(recipe, repository))
    assert len((tmp_path / "bin" / "trtexec.calls").read_text().split()) == len(built)
    assert {engine.model.removeprefix("tiny-m_") for engine in built} == {
        "unet",
        "text_encoder",
        "vae_encoder",
        "vae_decoder",
    }
    assert check_plans(recipe, repository) == []
    for engine in built:
        config = text_format.Parse((repository / engine.model / "config.pbtxt").read_text(), ModelConfig())
        assert (config.backend, config.version_policy.specific.versions) == ("tensorrt", [1])
    assert twin.read_text() == before  # a twin for LoRAs stays with onnxruntime
    smi.write_text("#!/bin/sh\necho 8.9\n")
    assert all("there is no " in line for line in check_plans(recipe, repository))


def test_the_command_says_what_is_wrong(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plans", "tiny", "--repository", str(tmp_path / "nowhere")]) == 2
    assert "nowhere has no models of tiny-l: build tiny first" in capsys.readouterr().err
    assert main(["plans", "tiny", "--repository", str(repository), "--check"]) == 2
    assert "plans are built where they are served" in capsys.readouterr().err


def test_the_same_model_is_run_by_the_other_backend(unet: Path) -> None:
    """Names, tensors, versions and batching stay; backend, file, kind and what tunes them change."""
    sizes, latents = [{"height": 128, "width": 128}, {"height": 64, "width": 64}], [4, -1, -1]
    before = mc.onnx_model(
        "x_unet",
        [
            mc.model_input("sample", "FP32", latents),
            mc.scalar_per_row("timestep", "FP32"),
            mc.model_input("encoder_hidden_states", "FP32", [77, 2048]),
            mc.model_input("pooled_projections", "FP32", [1280]),
        ],
        [mc.model_output("noise_pred", "FP32", latents)],
        6,
        free_dims={"sample": (128, 128)},
        channels_last=True,
    )
    after = with_plan(before, Recipe.of(unet, Span.batch(6), sizes), MACHINE)
    assert (after.backend, after.platform) == ("tensorrt", "tensorrt_plan")
    assert after.default_model_filename == after.cc_model_filenames["9.0"] == "model_sm90.plan"
    assert not after.optimization.HasField("execution_accelerators")
    (group,) = after.instance_group
    assert (ModelInstanceGroup.Kind.Name(group.kind), list(group.profile)) == ("KIND_GPU", ["0", "1"])
    graphs = [(spec.batch_size, list(spec.input["sample"].dim)) for spec in after.optimization.cuda.graph_spec]
    assert graphs == [(batch, [4, side, side]) for side in (128, 64) for batch in (1, 2, 4, 6)]
    for name in ("name", "max_batch_size", "input", "output", "dynamic_batching", "model_warmup"):
        assert getattr(after, name) == getattr(before, name)
    assert text_format.Parse(mc.to_text(after), ModelConfig()) == after
