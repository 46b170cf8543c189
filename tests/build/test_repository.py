"""The model repository: what is committed is what the recipe says, and its models fit together."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelOutput

from tests.build.graph_faces import FLOAT, INT32, UINT8, Faces, words_of, write_faces
from underpaint.build.recipes import FamilyRecipe, VariantRecipe, load_recipe
from underpaint.build.repository import FAMILIES, PIPELINES, render, write
from underpaint.deployment import FILE_NAME, Deployment, Sampling
from underpaint.errors import Unavailable
from underpaint.evidence import Match
from underpaint.front_door.denoisers import Denoisers
from underpaint.front_door.pipelines import Errand, Job, paint
from underpaint.front_door.transport import Parameters, Tensors
from underpaint.policies import CachedImage, CachedLatents, Keep, Noise, Plan
from underpaint.policies.plan import Start
from underpaint.requests import GenerateRequest, input_fields

COMMITTED = Path(__file__).resolve().parents[2] / "model_repository"
RECIPE = load_recipe(FAMILIES / "tiny.toml")
EMBEDDERS = ("embed_text", "embed_image")
SCORERS = ("router", "discriminator")
TWINS = ("_unet_lora", "_unet_locon", "_text_encoder_lora")
HALVES = ("_unet_encoder", "_unet_decoder", "_unet_encoder_lora", "_unet_decoder_lora")
HALVES += ("_unet_encoder_locon", "_unet_decoder_locon")
CONTROLNETS = tuple(path.name for path in COMMITTED.glob("controlnet_*"))

NUMPY_TYPES = {"STRING": "object", "FP32": "float32", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}
Signature = tuple[int, tuple[int, ...]]  # data type, dims


# A second repository, of components that only say how large they are: two sizes, other channels, flow matching.
OTHER = FamilyRecipe(
    name="other",
    small="quick",
    large="quick",
    variants=(
        VariantRecipe("quick", ((64, 32), (32, 64)), 4, 20, 1.0, 8.0, max_rows=6, unet_instances=3, unet_threads=2),
    ),
)
FILES = {
    "other_tokenizer/1/tokenizer.json": words_of(77),
    "quick_unet/1/config.json": {"in_channels": 16},
    "quick_vae_decoder/1/config.json": {"decoder_block_out_channels": [8, 16, 32, 64]},
    "quick_denoiser/1/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
}
LATENTS, PIXELS, EMBEDS = (FLOAT, ["b", 16, "h", "w"]), (UINT8, ["b", "H", "W", 3]), (FLOAT, ["b", 77, 32])
GRAPHS = {
    "unet": Faces(
        {"sample": LATENTS, "timestep": (FLOAT, ["b"]), "encoder_hidden_states": EMBEDS}, {"noise_pred": LATENTS}
    ),
    "text_encoder": Faces({"input_ids": (INT32, ["b", 77])}, {"last_hidden_state": EMBEDS}),
    "vae_encoder": Faces({"image": PIXELS}, {"latents": LATENTS}),
    "vae_decoder": Faces({"latents": LATENTS}, {"image": PIXELS}),
}


@pytest.fixture
def other_repository(tmp_path: Path) -> Path:
    return write_faces(tmp_path, "quick", GRAPHS, FILES)


def parse(files: Mapping[Path, str]) -> dict[str, ModelConfig]:
    """Every config.pbtxt by the folder that it is in."""
    return {
        str(path.parent): text_format.Parse(text, ModelConfig())
        for path, text in files.items()
        if path.name == "config.pbtxt"
    }


@pytest.fixture(scope="module")
def rendered() -> dict[Path, str]:
    return render(RECIPE, COMMITTED)


@pytest.fixture(scope="module")
def configs(rendered: Mapping[Path, str]) -> dict[str, ModelConfig]:
    return parse(rendered)


# Committed is rendered ----------------------------------------------------------------------------------------------


def test_the_committed_files_are_the_rendered_ones(rendered: Mapping[Path, str]) -> None:
    stale = [str(name) for name, text in rendered.items() if not same(COMMITTED / name, text)]
    assert stale == [], "run `underpaint render`"


def same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def test_nothing_is_committed_that_would_not_be_rendered(rendered: Mapping[Path, str]) -> None:
    written = {"config.pbtxt", "model.py", FILE_NAME, ".gitkeep"}
    committed = {path.relative_to(COMMITTED) for path in COMMITTED.rglob("*") if path.name in written}
    assert committed == set(rendered)


def test_rendering_twice_gives_the_same(tmp_path: Path, other_repository: Path) -> None:
    files = render(OTHER, other_repository)
    write(files, other_repository)
    assert render(OTHER, other_repository) == files
    assert all(same(other_repository / name, text) for name, text in files.items())


# Each model by itself -----------------------------------------------------------------------------------------------


def test_every_model_of_the_design_is_there(configs: Mapping[str, ModelConfig]) -> None:
    parts = ["_text_encoder", "_unet", "_denoiser", "_vae_encoder", "_vae_decoder", "", "_refine", "_resume"]
    expected = {variant.name + part for variant in RECIPE.variants for part in parts}
    expected |= {variant.name + twin for variant in RECIPE.variants if variant.loras for twin in TWINS}
    expected |= {variant.name + half for variant in RECIPE.variants if variant.controlnets for half in HALVES}
    expected |= {"model_control", *CONTROLNETS}
    shared = {"tiny_tokenizer", "generate", "generate_stream", "cache", *EMBEDDERS, *SCORERS}
    assert set(configs) == expected | shared


def test_every_config_is_complete_without_auto_completion(configs: Mapping[str, ModelConfig]) -> None:
    """The server runs with --disable-auto-complete-config."""
    for folder, config in configs.items():
        assert config.name == folder
        assert bool(config.backend) != (config.platform == "ensemble"), folder
        assert config.input, folder
        assert config.output, folder
        for tensor in (*config.input, *config.output):
            assert tensor.data_type != DataType.Value("TYPE_INVALID"), (folder, tensor.name)
            assert tensor.dims, (folder, tensor.name)
            assert all(d == -1 or d > 0 for d in tensor.dims), (folder, tensor.name)
        for names in ([t.name for t in config.input], [t.name for t in config.output]):
            assert len(names) == len(set(names)), folder


def test_every_python_model_has_its_adapter(rendered: Mapping[Path, str], configs: Mapping[str, ModelConfig]) -> None:
    adapters = {}
    for folder, config in configs.items():
        if config.backend == "python":
            (imported,) = (
                n for n in ast.parse(rendered[Path(folder) / "1" / "model.py"]).body if isinstance(n, ast.ImportFrom)
            )
            assert [alias.name for alias in imported.names] == ["TritonPythonModel"]
            adapters[folder] = str(imported.module).removeprefix("underpaint.triton.")
    package = Path(__file__).resolve().parents[2] / "underpaint" / "triton"
    assert all((package / f"{module}.py").is_file() for module in adapters.values())
    assert adapters == {
        "generate": "generate_model",
        "generate_stream": "generate_stream_model",
        "cache": "cache_model",
        "model_control": "model_control_model",
        "tiny_tokenizer": "tokenizer_model",
        **{f"{variant.name}_denoiser": "denoiser_model" for variant in RECIPE.variants},
    }


def test_warm_up_makes_every_input_of_a_fixed_size(configs: Mapping[str, ModelConfig]) -> None:
    onnx = {name: config for name, config in configs.items() if config.backend == "onnxruntime"}
    twins = len(TWINS) * sum(variant.loras for variant in RECIPE.variants)
    halves = len(HALVES) * sum(variant.controlnets for variant in RECIPE.variants) + len(CONTROLNETS)
    assert len(onnx) == 4 * len(RECIPE.variants) + twins + halves + len(EMBEDDERS) + len(SCORERS)
    for folder, config in onnx.items():
        check_warm_up(folder, config)


def test_warm_up_of_a_variant_of_several_sizes(other_repository: Path) -> None:
    check_warm_up("quick_unet", parse(render(OTHER, other_repository))["quick_unet"])


def check_warm_up(folder: str, config: ModelConfig) -> None:
    (warm_up,) = config.model_warmup
    assert set(warm_up.inputs) == {t.name for t in config.input}, folder
    for declared in config.input:
        given = warm_up.inputs[declared.name]
        assert given.data_type == declared.data_type
        assert fits(declared.dims, given.dims)
        assert all(d > 0 for d in given.dims), (folder, declared.name)


# The models together ------------------------------------------------------------------------------------------------


def fits(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(-1 in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))


def signature(tensor: ModelInput | ModelOutput) -> Signature:
    return tensor.data_type, tuple(tensor.dims)


def faults(ensemble: ModelConfig, models: Mapping[str, ModelConfig]) -> list[str]:
    """What is wrong with the wiring of an ensemble."""
    found: list[str] = []
    sources = {t.name: [(ensemble.name, signature(t))] for t in ensemble.input}
    uses = {t.name: [(ensemble.name, signature(t))] for t in ensemble.output}
    optional = {t.name for t in ensemble.input if t.optional}
    for step in ensemble.ensemble_scheduling.step:
        model = models.get(step.model_name)
        if model is None:
            found.append(f"no model {step.model_name}")
            continue
        inputs, outputs = {t.name: t for t in model.input}, {t.name: t for t in model.output}
        found += [f"{model.name} has no input {key}" for key in step.input_map if key not in inputs]
        found += [f"{model.name} has no output {key}" for key in step.output_map if key not in outputs]
        found += [
            f"{model.name} lacks {t.name}" for t in model.input if not t.optional and t.name not in step.input_map
        ]
        for key, name in step.input_map.items():
            if key in inputs:
                uses.setdefault(name, []).append((model.name, signature(inputs[key])))
                if name in optional and not inputs[key].optional:
                    found.append(f"{model.name} needs {key}, which is optional for the ensemble")
        for key, name in step.output_map.items():
            if key in outputs:
                sources.setdefault(name, []).append((model.name, signature(outputs[key])))
    found += [f"{name} comes from {[s for s, _ in places]}" for name, places in sources.items() if len(places) > 1]
    found += [f"nobody makes {name}" for name in uses if name not in sources]
    found += [f"nobody uses {name}" for name in sources if name not in uses]
    for name in uses.keys() & sources.keys():
        made_by, (made_type, made_dims) = sources[name][0]
        for used_by, (used_type, used_dims) in uses[name]:
            if made_type != used_type or not fits(made_dims, used_dims):
                found.append(
                    f"{name}: {made_by} makes {made_dims}, {used_by} wants {used_dims} ({made_type}, {used_type})"
                )
    return found


def ensembles(configs: Mapping[str, ModelConfig]) -> list[ModelConfig]:
    return [config for config in configs.values() if config.platform == "ensemble"]


def test_ensembles_join_models_that_fit(configs: Mapping[str, ModelConfig]) -> None:
    assert len(ensembles(configs)) == len(PIPELINES) * len(RECIPE.variants)
    for ensemble in ensembles(configs):
        assert faults(ensemble, configs) == [], ensemble.name


def test_ensembles_of_other_shapes_fit_too(other_repository: Path) -> None:
    configs = parse(render(OTHER, other_repository))
    assert len(ensembles(configs)) == len(PIPELINES)
    for ensemble in ensembles(configs):
        assert faults(ensemble, configs) == [], ensemble.name


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (lambda e, m: m.pop("tiny-l_denoiser"), "no model tiny-l_denoiser"),
        (
            lambda e, m: m["tiny-l_denoiser"].input.add(name="mask", data_type=11, dims=[1]),
            "tiny-l_denoiser lacks mask",
        ),
        (lambda e, m: m["tiny-l_vae_decoder"].input[0].dims.__setitem__(0, 99), "latents: tiny-l_denoiser makes"),
        (lambda e, m: setattr(m["tiny_tokenizer"].output[0], "data_type", 9), "input_ids: tiny_tokenizer makes"),
        (lambda e, m: e.ensemble_scheduling.step[0].input_map.update({"suffix": "prompt"}), "no input suffix"),
        (lambda e, m: e.ensemble_scheduling.step[3].output_map.pop("latents"), "nobody makes latents"),
        (lambda e, m: setattr(e.input[0], "name", "text"), "nobody makes prompt"),
    ],
)
def test_the_check_itself_finds_faults(configs: Mapping[str, ModelConfig], break_it: Any, fault: str) -> None:
    copies = {name: ModelConfig.FromString(config.SerializeToString()) for name, config in configs.items()}
    ensemble = copies["tiny-l"]
    assert faults(ensemble, copies) == []
    break_it(ensemble, copies)
    assert any(fault in found for found in faults(ensemble, copies))


def test_the_pipelines_differ_in_their_start_alone(configs: Mapping[str, ModelConfig]) -> None:
    for variant in RECIPE.variants:
        plain, refine, resume = (
            {t.name for t in configs[variant.name + suffix].input} for suffix in PIPELINES.values()
        )
        assert refine - plain == {"image", "start_step"}
        assert resume - plain == {"start_latents", "image_latents", "start_step"}
        assert plain <= refine & resume


def test_a_unet_takes_what_its_denoiser_sends(configs: Mapping[str, ModelConfig]) -> None:
    for variant in RECIPE.variants:
        unet, denoiser = configs[f"{variant.name}_unet"], configs[f"{variant.name}_denoiser"]
        parameters = {name: value.string_value for name, value in denoiser.parameters.items()}
        assert parameters["unet"] == unet.name
        assert int(parameters["max_rows"]) == unet.max_batch_size == variant.max_rows
        assert int(parameters["stacks_in_flight"]) == unet.instance_group[0].count == variant.unet_instances
        sample, timestep, hidden = unet.input
        assert [t.name for t in unet.input] == ["sample", "timestep", "encoder_hidden_states"]
        assert timestep.dims == [1]
        assert timestep.HasField("reshape")  # a number per row, [batch], for the graph
        assert timestep.reshape.shape == []
        embeds = next(t for t in denoiser.input if t.name == "prompt_embeds")
        assert signature(hidden) == signature(embeds)
        assert signature(unet.output[0]) == signature(sample)
        assert sample.dims[0] == int(parameters["latent_channels"])
        width, height = variant.sizes[0]
        assert [d * int(parameters["vae_scale_factor"]) for d in sample.dims[1:]] == [height, width]


def test_shapes_come_from_the_components(other_repository: Path) -> None:
    configs = parse(render(OTHER, other_repository))
    unet, denoiser = configs["quick_unet"], configs["quick_denoiser"]
    assert [list(t.dims) for t in unet.input] == [[16, -1, -1], [1], [77, 32]]
    assert denoiser.parameters["vae_scale_factor"].string_value == "8"
    assert denoiser.parameters["stacks_in_flight"].string_value == "3"
    assert (unet.max_batch_size, unet.instance_group[0].count) == (6, 3)
    assert list(configs["other_tokenizer"].output[0].dims) == [77]
    assert list(configs["quick_vae_encoder"].input[0].dims) == [-1, -1, 3]


def test_height_comes_before_width(other_repository: Path) -> None:
    wide = replace(OTHER, variants=(replace(OTHER.variants[0], sizes=((64, 32),)),))
    configs = parse(render(wide, other_repository))

    def warmed_up(model: str, tensor: str) -> list[int]:
        return list(configs[model].model_warmup[0].inputs[tensor].dims)

    assert warmed_up("quick_unet", "sample") == [16, 4, 8]
    assert warmed_up("quick_vae_decoder", "latents") == [16, 4, 8]
    assert warmed_up("quick_vae_encoder", "image") == [32, 64, 3]
    check_warm_up("quick_unet", configs["quick_unet"])


# What the front door expects ----------------------------------------------------------------------------------------


class Listener:
    """A transport that only listens."""

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        timeout_s: float,
        parameters: Parameters | None = None,
    ) -> Mapping[str, np.ndarray]:
        self.model, self.inputs, self.outputs = model, inputs, outputs
        raise Unavailable("only listening")


def check_call(listener: Listener, config: ModelConfig) -> None:
    """The call that was heard is one that the model takes."""
    assert listener.model.partition(":")[0] == config.name
    declared = {t.name: t for t in config.input}
    assert {t.name for t in config.input if not t.optional} <= set(listener.inputs) <= set(declared)
    for name, tensor in listener.inputs.items():
        assert NUMPY_TYPES[DataType.Name(declared[name].data_type).removeprefix("TYPE_")] == str(tensor.dtype), name
        assert fits(declared[name].dims, tensor.shape[1:]), name
    assert set(listener.outputs) <= {t.name for t in config.output}


@pytest.mark.parametrize("suffix", PIPELINES.values())
def test_ensembles_take_what_the_front_door_sends(configs: Mapping[str, ModelConfig], suffix: str) -> None:
    for variant in RECIPE.variants:
        config, entry = configs[variant.name + suffix], Match(1, 0.9, "a", variant.name, 1)
        latents = np.zeros((config.output[1].dims[0], 16, 16), np.float32)
        starts: dict[str, list[tuple[Start, np.ndarray | None]]] = {
            "": [(Noise(), None)],
            "_refine": [(CachedImage(entry, 2), np.zeros((64, 64, 3), np.uint8))],
            "_resume": [(CachedLatents(entry, 2), latents), (CachedImage(entry, 2), latents)],
        }
        sampling = Sampling(5, 3.0, "ddim", 64, 64, 1)
        for start, source in starts[suffix]:
            job = Job(Plan(variant.name, start), GenerateRequest("a"), sampling, source, Keep((3, 4), finished=True))
            listener = Listener()
            with pytest.raises(Unavailable):
                asyncio.run(paint(listener, job, Errand("mine", 1, 2, 1.0)))
            check_call(listener, config)
            assert {"captured_latents", "latents"} <= set(listener.outputs)


@pytest.mark.parametrize("question", ["cancel", "peek"])
def test_denoisers_take_what_the_front_door_asks(configs: Mapping[str, ModelConfig], question: str) -> None:
    listener = Listener()
    with pytest.raises(Unavailable):
        asyncio.run(getattr(Denoisers(listener), question)("tiny-s", "mine"))
    check_call(listener, configs["tiny-s_denoiser"])


def test_a_pulse_is_an_output_of_the_denoiser(configs: Mapping[str, ModelConfig]) -> None:
    listener = Listener()
    assert asyncio.run(Denoisers(listener).alive_since("tiny-l")) is None
    check_call(listener, configs["tiny-l_denoiser"])


def test_a_preview_is_something_that_the_decoder_takes(configs: Mapping[str, ModelConfig]) -> None:
    listener = Listener()
    channels, height, width = configs["tiny-s_vae_decoder"].input[0].dims
    with pytest.raises(Unavailable):
        asyncio.run(Denoisers(listener).preview("tiny-s", np.zeros((1, channels, height, width), np.float32)))
    check_call(listener, configs["tiny-s_vae_decoder"])


@pytest.mark.parametrize("door", ["generate", "generate_stream"])
def test_the_front_doors_take_every_field_of_a_request(configs: Mapping[str, ModelConfig], door: str) -> None:
    declared = {t.name: t for t in configs[door].input}
    assert list(declared) == ["op", *(f.name for f in input_fields())]
    for field in input_fields():
        assert DataType.Name(declared[field.name].data_type) == f"TYPE_{field.metadata['dtype']}"
        assert declared[field.name].dims == field.metadata.get("dims", [1])
    assert all(t.optional for t in declared.values())
    assert {"image", "png", "outcome"} <= {t.name for t in configs[door].output}
    assert configs[door].model_transaction_policy.decoupled == (door == "generate_stream")


def test_the_deployment_says_what_the_recipe_and_the_components_say(
    rendered: Mapping[Path, str], tmp_path: Path, other_repository: Path
) -> None:
    assert rendered[Path("generate/1") / FILE_NAME] == rendered[Path("generate_stream/1") / FILE_NAME]
    write(render(OTHER, other_repository), other_repository)
    deployment = Deployment.load(other_repository / "generate" / "1")
    assert (deployment.family, deployment.small, deployment.large) == ("other", "quick", "quick")
    quick = deployment.variant("quick")
    assert (quick.num_inference_steps, quick.max_inference_steps) == (4, 20)
    assert (quick.guidance_scale, quick.max_guidance_scale) == (1.0, 8.0)
    assert quick.sizes == ((64, 32), (32, 64))
    assert quick.schedulers[0] == "flow_match_euler"
    assert quick.prompt_tokens == 77
    assert (quick.weights, deployment.embedder) == ("", "")


def test_the_deployment_tells_weights_apart(other_repository: Path) -> None:
    def weights() -> tuple[str, str]:
        write(render(OTHER, other_repository), other_repository)
        deployment = Deployment.load(other_repository / "generate" / "1")
        return deployment.variant("quick").weights, deployment.embedder

    seen = []
    for model, content in [("quick_unet", b"a"), ("quick_unet", b"b"), ("embed_text", b"a"), ("embed_image", b"a")]:
        folder = other_repository / model / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(content)
        seen.append(weights())
    variant, embedder = zip(*seen, strict=True)
    assert len({*variant}) == 2
    assert variant[1:] == (variant[1],) * 3
    assert embedder[:2] == ("", "")
    assert len({*embedder}) == 3
    assert weights() == seen[-1]
