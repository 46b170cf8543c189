"""From a recipe and its components to what tritonserver loads: every config.pbtxt, every model.py, every ensemble.

The components' version directories hold the graph and, beside it, the config.json of the diffusers or transformers
class that it was exported from; shapes are read from there, so that a recipe cannot contradict its weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underpaint.addons.layout import LoraLayout
from underpaint.build.recipes import FamilyRecipe, VariantRecipe
from underpaint.deployment import FILE_NAME, TOKEN_MARKERS, Deployment, Scorer, Variant
from underpaint.diffusion.schedulers import scheduler_names
from underpaint.errors import InvalidArgument, NotFound
from underpaint.requests import input_fields
from underpaint.triton import model_config as mc
from underpaint.triton.versions import Versioned


def _data(folder: str) -> Path:
    """A folder of the checkout, or the copy of it that an installed package carries."""
    checkout = Path(__file__).resolve().parents[2] / folder
    return checkout if checkout.is_dir() else Path(__file__).resolve().parents[1] / "data" / folder


ENSEMBLES = _data("ensembles")
FAMILIES = _data("build/families")
PIPELINES = {"text_to_image": "", "refine": "_refine", "resume": "_resume"}

_VERSION = 1
_TEXT_ENCODER_BATCH = 32
_PARTS = ("_text_encoder", "_unet", "_vae_encoder", "_vae_decoder")  # whose weights decide what a variant paints
_EMBEDDERS = ("embed_text", "embed_image")
_SCORERS = ("router", "discriminator")


@dataclass(frozen=True)
class Shapes:
    """What a variant's components say of themselves."""

    latent_channels: int
    vae_scale_factor: int
    sequence_length: int
    hidden_size: int

    @classmethod
    def read(cls, repository: Path, variant: str) -> Shapes:
        unet = _config_json(repository, f"{variant}_unet")
        vae = _config_json(repository, f"{variant}_vae_decoder")
        text_encoder = _config_json(repository, f"{variant}_text_encoder")
        return cls(
            latent_channels=unet["in_channels"],
            vae_scale_factor=2 ** (len(vae["decoder_block_out_channels"]) - 1),
            sequence_length=text_encoder["max_position_embeddings"],
            hidden_size=text_encoder["hidden_size"],
        )


def render(recipe: FamilyRecipe, repository: Path) -> dict[Path, str]:
    """Every file that is written rather than trained, relative to ``repository``, with its text."""
    files: dict[Path, str] = {}
    shapes = {v.name: Shapes.read(repository, v.name) for v in recipe.variants}
    configs = [_tokenizer(recipe, _shared_sequence_length(recipe, shapes)), *_front_doors(recipe), _cache()]
    for variant in recipe.variants:
        configs += _variant(recipe, variant, shapes[variant.name], repository)
    if recipe.clip:
        configs += _embedders(recipe, repository)
    if recipe.routing:
        configs += _scorers(repository)
    ensembles = [
        _ensemble(pipeline, recipe, variant, shapes[variant.name])
        for pipeline in PIPELINES
        for variant in recipe.variants
    ]
    configs += ensembles
    versioned = Versioned.of(shapes, configs)
    for config in configs:
        files[Path(config.name) / "config.pbtxt"] = mc.to_text(versioned.pinned(config, _VERSION))
        if config.default_model_filename:
            files[Path(config.name) / "1" / ".gitkeep"] = ""
        if config.backend == "python":
            files[Path(config.name) / "1" / "model.py"] = _model_py(config.name)
        if config.platform == "ensemble":
            files[Path(config.name) / "1" / ".gitkeep"] = ""  # Triton wants a version directory, git no empty one
    deployment = _deployment(recipe, repository, shapes).to_json()
    for door in ("generate", "generate_stream"):
        files[Path(door) / "1" / FILE_NAME] = deployment
    return files


def write(files: dict[Path, str], repository: Path) -> None:
    for name, text in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# The models of a variant ----------------------------------------------------------------------------------------


def _variant(recipe: FamilyRecipe, variant: VariantRecipe, shapes: Shapes, repository: Path) -> list[mc.ModelConfig]:
    return [
        _text_encoder(variant, shapes),
        _unet(variant, shapes),
        _denoiser(variant, shapes),
        _vae_encoder(variant, shapes),
        _vae_decoder(variant, shapes),
        *(_lora_twins(variant, shapes, repository) if variant.loras else ()),
    ]


def _text_encoder(variant: VariantRecipe, shapes: Shapes) -> mc.ModelConfig:
    inputs = [mc.model_input("input_ids", "INT32", [shapes.sequence_length])]
    outputs = [mc.model_output("last_hidden_state", "FP32", _embeds(shapes))]
    return mc.onnx_model(f"{variant.name}_text_encoder", inputs, outputs, max_batch_size=_TEXT_ENCODER_BATCH)


def _unet(variant: VariantRecipe, shapes: Shapes) -> mc.ModelConfig:
    latents = _declared_latents(variant, shapes)
    inputs = [
        mc.model_input("sample", "FP32", latents),
        mc.scalar_per_row("timestep", "FP32"),
        mc.model_input("encoder_hidden_states", "FP32", _embeds(shapes)),
    ]
    return mc.onnx_model(
        f"{variant.name}_unet",
        inputs,
        [mc.model_output("noise_pred", "FP32", latents)],
        variant.max_rows,
        variant.unet_instances,
        variant.unet_threads,
        free_dims=_latent_size(variant, shapes),
        # Its one caller, the denoiser, sends each instance what it should run; merging would leave others idle.
        dynamic_batching=False,
    )


def _denoiser(variant: VariantRecipe, shapes: Shapes) -> mc.ModelConfig:
    inputs = [
        mc.model_input("op", "STRING", [1], optional=True),
        mc.model_input("prompt_embeds", "FP32", _embeds(shapes), optional=True),
        mc.model_input("negative_prompt_embeds", "FP32", _embeds(shapes), optional=True),
        mc.model_input("seed", "INT64", [1], optional=True),
        mc.model_input("num_inference_steps", "INT32", [1], optional=True),
        mc.model_input("guidance_scale", "FP32", [1], optional=True),
        mc.model_input("scheduler", "STRING", [1], optional=True),
        mc.model_input("height", "INT32", [1], optional=True),
        mc.model_input("width", "INT32", [1], optional=True),
        mc.model_input("start_step", "INT32", [1], optional=True),
        mc.model_input("image_latents", "FP32", _latents(shapes), optional=True),
        mc.model_input("start_latents", "FP32", _latents(shapes), optional=True),
        mc.model_input("capture_steps", "INT32", [-1], optional=True),
        mc.model_input("input_ids", "INT32", [shapes.sequence_length], optional=True),
        mc.model_input("negative_input_ids", "INT32", [shapes.sequence_length], optional=True),
    ]
    outputs = [
        mc.model_output("latents", "FP32", _latents(shapes)),
        mc.model_output("captured_latents", "FP32", [-1, *_latents(shapes)]),
        mc.model_output("timings_ns", "INT64", [3]),
        mc.model_output("progress", "INT32", [2]),
        mc.model_output("steps_run", "INT32", [1]),
        mc.model_output("lora_steps", "INT32", [-1]),
        mc.model_output("alive_since_ns", "INT64", [1]),
    ]
    parameters = {
        # The front door feels its pulse and errors those who wait for it, so a new process is all that is needed.
        "heartbeat": "true",
        "on_death": "reload",
        "calls": ",".join([f"{variant.name}_unet", *_twins(variant), *_text_twins(variant)]),
        "unet": f"{variant.name}_unet",
        "unet_timeout_s": variant.unet_timeout_s,
        "max_rows": variant.max_rows,
        "stacks_in_flight": variant.unet_instances,
        "latent_channels": shapes.latent_channels,
        "vae_scale_factor": shapes.vae_scale_factor,
        "sizes": ",".join(f"{width}x{height}" for width, height in variant.sizes),
    }
    if variant.loras:
        parameters |= {
            "lora_twins": ",".join(_twins(variant)),
            "lora_text_twin": ",".join(_text_twins(variant)),
            "loras": "",  # where they are found; empty: what the environment says, see addons/location.py
            "lora_memory_mb": variant.lora_memory_mb,
            "lora_timeout_s": variant.lora_timeout_s,
        }
    return mc.python_model(f"{variant.name}_denoiser", inputs, outputs, max_batch_size=1, parameters=parameters)


def _twins(variant: VariantRecipe) -> list[str]:
    """The UNet's twins for LoRAs: of attention's layers, and of all."""
    return [f"{variant.name}_unet_lora", f"{variant.name}_unet_locon"] if variant.loras else []


def _text_twins(variant: VariantRecipe) -> list[str]:
    return [f"{variant.name}_text_encoder_lora"] if variant.loras else []


def _lora_twins(variant: VariantRecipe, shapes: Shapes, repository: Path) -> list[mc.ModelConfig]:
    """The twins stand beside the weights that they share with the network; only their configs are apart.

    They have no batch dimension in Triton's sense, since a bank has fewer rows than its batch.
    """
    latents, embeds = [-1, *_declared_latents(variant, shapes)], [-1, *_embeds(shapes)]
    rows = [
        mc.model_input("sample", "FP32", latents),
        mc.model_input("timestep", "FP32", [-1]),
        mc.model_input("encoder_hidden_states", "FP32", embeds),
    ]
    noise = [mc.model_output("noise_pred", "FP32", latents)]
    ids = [mc.model_input("input_ids", "INT32", [-1, shapes.sequence_length])]
    states = [mc.model_output("last_hidden_state", "FP32", embeds)]
    unet, encoder = f"{variant.name}_unet", f"{variant.name}_text_encoder"
    layout = LoraLayout.load(repository / unet / "1")
    width = LoraLayout.load(repository / encoder / "1").width
    instances, threads = variant.unet_instances, variant.unet_threads
    return [
        _twin(unet, "lora", rows, layout.narrow_width, noise, instances, threads),
        _twin(unet, "locon", rows, layout.width, noise, 1, threads),  # few LoRAs go that far
        _twin(encoder, "lora", ids, width, states, 1, 1),
    ]


def _twin(
    network: str,
    kind: str,
    inputs: Sequence[mc.ModelInput],
    width: int,
    outputs: Sequence[mc.ModelOutput],
    instances: int,
    threads: int,
) -> mc.ModelConfig:
    bank = [mc.model_input("lora_bank", "FP16", [-1, -1, width]), mc.model_input("lora_scales", "FP32", [-1, -1])]
    return mc.onnx_model(
        f"{network}_{kind}",
        [*inputs, *bank],
        outputs,
        0,
        instances,
        threads,
        free_dims=(1, 1),
        dynamic_batching=False,
        model_file=f"../../{network}/1/{kind}.onnx",
    )


def _vae_encoder(variant: VariantRecipe, shapes: Shapes) -> mc.ModelConfig:
    width, height = variant.sizes[0]
    inputs = [mc.model_input("image", "UINT8", _declared_pixels(variant))]
    outputs = [mc.model_output("latents", "FP32", _declared_latents(variant, shapes))]
    return mc.onnx_model(f"{variant.name}_vae_encoder", inputs, outputs, max_batch_size=8, free_dims=(height, width))


def _vae_decoder(variant: VariantRecipe, shapes: Shapes) -> mc.ModelConfig:
    inputs = [mc.model_input("latents", "FP32", _declared_latents(variant, shapes))]
    outputs = [mc.model_output("image", "UINT8", _declared_pixels(variant))]
    size = _latent_size(variant, shapes)
    return mc.onnx_model(f"{variant.name}_vae_decoder", inputs, outputs, max_batch_size=8, free_dims=size)


def _ensemble(pipeline: str, recipe: FamilyRecipe, variant: VariantRecipe, shapes: Shapes) -> mc.ModelConfig:
    template = (ENSEMBLES / f"{pipeline}.pbtxt").read_text()
    values = {"family": recipe.name, "variant": variant.name, "latent_channels": shapes.latent_channels}
    return mc.ensemble(template, values)


# The models of a family, and of the server ----------------------------------------------------------------------


def _shared_sequence_length(recipe: FamilyRecipe, shapes: dict[str, Shapes]) -> int:
    lengths = {s.sequence_length for s in shapes.values()}
    if len(lengths) > 1:
        allowed = "one length for all, since a family has one tokenizer"
        raise InvalidArgument.of(f"{recipe.name}: max_position_embeddings", sorted(lengths), allowed)
    return lengths.pop()


def _tokenizer(recipe: FamilyRecipe, sequence_length: int) -> mc.ModelConfig:
    inputs = [
        mc.model_input("prompt", "STRING", [1]),
        mc.model_input("negative_prompt", "STRING", [1], optional=True),
    ]
    outputs = [
        mc.model_output("input_ids", "INT32", [sequence_length]),
        mc.model_output("negative_input_ids", "INT32", [sequence_length]),
        mc.model_output("prompt_tokens", "INT32", [2]),
    ]
    return mc.python_model(f"{recipe.name}_tokenizer", inputs, outputs, max_batch_size=1)


def _embedders(recipe: FamilyRecipe, repository: Path) -> list[mc.ModelConfig]:
    """The two towers that retrieval looks with, and the way of a prompt into its own."""
    text = _config_json(repository, "embed_text")
    embedding = [mc.model_output("embedding", "FP32", [text["projection_dim"]])]
    ids = [mc.model_input("input_ids", "INT32", [text["max_position_embeddings"]])]
    side = _config_json(repository, "embed_image")["image_size"]
    image = [mc.model_input("image", "UINT8", [side, side, 3])]
    template = (ENSEMBLES / "embed_prompt.pbtxt").read_text()
    return [
        mc.ensemble(template, {"family": recipe.name, "dimensions": text["projection_dim"]}),
        mc.onnx_model("embed_text", ids, embedding, max_batch_size=_TEXT_ENCODER_BATCH),
        mc.onnx_model("embed_image", image, embedding, max_batch_size=_TEXT_ENCODER_BATCH),
    ]


def _scorers(repository: Path) -> list[mc.ModelConfig]:
    """Router and discriminator; prompts are tokenized as for the variants."""
    side = _config_json(repository, "discriminator")["image_size"]
    image = mc.model_input("image", "UINT8", [side, side, 3])
    return [_scorer(repository, "router", []), _scorer(repository, "discriminator", [image])]


def _scorer(repository: Path, name: str, inputs: list[mc.ModelInput]) -> mc.ModelConfig:
    ids = mc.model_input("input_ids", "INT32", [_config_json(repository, name)["max_position_embeddings"]])
    score = mc.model_output("score", "FP32", [1])
    return mc.onnx_model(name, [*inputs, ids], [score], max_batch_size=_TEXT_ENCODER_BATCH)


def _front_doors(recipe: FamilyRecipe) -> list[mc.ModelConfig]:
    inputs = [mc.model_input("op", "STRING", [1], optional=True)]
    inputs += [mc.model_input(f.name, f.metadata["dtype"], [1], optional=True) for f in input_fields()]
    outputs = [
        mc.model_output("image", "UINT8", [-1, -1, 3]),
        mc.model_output("png", "STRING", [1]),
        mc.model_output("outcome", "STRING", [1]),
    ]
    progress = mc.model_output("progress", "INT32", [2])
    # Its callers are outside; when its process dies, only closing their connections tells them.
    supervision = {"heartbeat": "true", "on_death": "restart_server", "calls": _calls(recipe)}
    return [
        mc.python_model("generate", inputs, outputs, parameters=supervision),
        mc.python_model("generate_stream", inputs, [*outputs, progress], decoupled=True, parameters=supervision),
    ]


def _cache() -> mc.ModelConfig:
    """What was painted before. Its shapes follow from what is put in, so it serves every family."""
    inputs = [
        mc.model_input("op", "STRING", [1]),
        mc.model_input("space", "STRING", [1], optional=True),
        mc.model_input("scope", "STRING", [1], optional=True),
        mc.model_input("tenant", "STRING", [1], optional=True),
        mc.model_input("embedding", "FP32", [-1], optional=True),
        mc.model_input("top_k", "INT32", [1], optional=True),
        mc.model_input("max_generation", "INT32", [1], optional=True),
        mc.model_input("image_from", "FP32", [1], optional=True),
        mc.model_input("entry_id", "INT64", [1], optional=True),
        mc.model_input("step", "INT32", [1], optional=True),
        mc.model_input("entry", "STRING", [-1], optional=True),
        mc.model_input("images", "UINT8", [-1, -1, -1, 3], optional=True),
        mc.model_input("image_embeddings", "FP32", [-1, -1], optional=True),
        mc.model_input("text_embeddings", "FP32", [-1, -1], optional=True),
        mc.model_input("latents", "FP32", [-1, -1, -1, -1], optional=True),
        mc.model_input("latents_steps", "INT32", [-1], optional=True),
        mc.model_input("latents_counts", "INT32", [-1], optional=True),
    ]
    outputs = [
        mc.model_output("matches", "STRING", [1]),
        mc.model_output("image", "UINT8", [-1, -1, 3]),
        mc.model_output("latents", "FP32", [-1, -1, -1]),
        mc.model_output("entry_id", "INT64", [-1]),
        mc.model_output("entries", "INT64", [1]),
        mc.model_output("stats", "STRING", [1]),
        mc.model_output("alive_since_ns", "INT64", [1]),
    ]
    parameters = {
        "heartbeat": "true",
        "on_death": "reload",
        "store": "",  # the folder that the environment names, see cache/location.py
        "capacity": 10_000,
        "eviction": "fifo",
    }
    return mc.python_model("cache", inputs, outputs, parameters=parameters)


def _calls(recipe: FamilyRecipe) -> str:
    """What the front doors call, so that they are ready only when it is (the pipelines bring in all else)."""
    pipelines = [variant.name + suffix for variant in recipe.variants for suffix in PIPELINES.values()]
    return ",".join([*pipelines, *(_SCORERS if recipe.routing else ())])


_ADAPTERS = {
    "_tokenizer": "tokenizer_model",
    "_denoiser": "denoiser_model",
    "generate_stream": "generate_stream_model",
    "generate": "generate_model",
    "cache": "cache_model",
}

# What Triton imports; all there is to it lives in the package.
_MODEL_PY = '''"""See ``underpaint.triton.{module}``."""

from underpaint.triton.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def _model_py(name: str) -> str:
    module = next(module for suffix, module in _ADAPTERS.items() if name.endswith(suffix))
    return _MODEL_PY.format(module=module)


def _deployment(recipe: FamilyRecipe, repository: Path, shapes: dict[str, Shapes]) -> Deployment:
    variants = {
        v.name: Variant(
            name=v.name,
            num_inference_steps=v.num_inference_steps,
            refine_steps=v.refine_steps,
            max_inference_steps=v.max_inference_steps,
            guidance_scale=v.guidance_scale,
            max_guidance_scale=v.max_guidance_scale,
            sizes=v.sizes,
            schedulers=scheduler_names(_json(repository / f"{v.name}_denoiser" / "1" / "scheduler_config.json")),
            prompt_tokens=shapes[v.name].sequence_length - TOKEN_MARKERS,
            loras=v.loras,
            weights=weights_of(repository, v.name),
        )
        for v in recipe.variants
    }
    return Deployment(
        family=recipe.name,
        variants=variants,
        small=recipe.small,
        refiner=recipe.refiner,
        large=recipe.large,
        embedder=_weights(repository, _EMBEDDERS),
        router=_what_foresees(repository, "router") if recipe.routing else None,
        discriminator=_what_foresees(repository, "discriminator") if recipe.routing else None,
    )


def _what_foresees(repository: Path, name: str) -> Scorer:
    config = _config_json(repository, name)
    return Scorer(_weights(repository, [name]), config["small_weights"], tuple(config["quantiles"]))


def weights_of(repository: Path, variant: str) -> str:
    """A short hash over all weights that decide what a variant paints; empty where it has none."""
    return _weights(repository, [variant + part for part in _PARTS])


def _weights(repository: Path, models: Sequence[str]) -> str:
    """A short hash over the weights of some models; empty where they have none."""
    files = [path for model in models for path in sorted((repository / model / "1").glob("*.safetensors"))]
    if not files:
        return ""
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in files)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]


# Shapes ---------------------------------------------------------------------------------------------------------


def _embeds(shapes: Shapes) -> list[int]:
    return [shapes.sequence_length, shapes.hidden_size]


def _latents(shapes: Shapes, height: int = -1, width: int = -1) -> list[int]:
    return [shapes.latent_channels, height, width]


def _latent_size(variant: VariantRecipe, shapes: Shapes) -> tuple[int, int]:
    """Height and width of the latents at the variant's first size."""
    width, height = variant.sizes[0]
    return height // shapes.vae_scale_factor, width // shapes.vae_scale_factor


def _declared_latents(variant: VariantRecipe, shapes: Shapes) -> list[int]:
    """What config.pbtxt says of a graph's latents: onnxruntime's backend wants the graph's own dimensions, exactly."""
    return _latents(shapes, *_latent_size(variant, shapes)) if _one_size(variant) else _latents(shapes)


def _declared_pixels(variant: VariantRecipe) -> list[int]:
    width, height = variant.sizes[0]
    return [height, width, 3] if _one_size(variant) else [-1, -1, 3]


def _one_size(variant: VariantRecipe) -> bool:
    return len(variant.sizes) == 1


def _config_json(repository: Path, model: str) -> dict[str, Any]:
    return _json(repository / model / "1" / "config.json")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"{path} is missing: train or export the family before its repository is rendered")
    return json.loads(path.read_text())
