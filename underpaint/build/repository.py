"""From a recipe and its components to what tritonserver loads: every config.pbtxt, every model.py, every ensemble.

The components' version directories hold the graph and, beside it, the config.json of the diffusers or transformers
class that it was exported from; shapes are read from there, so that a recipe cannot contradict its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from underpaint.build.controlnet_configs import MODEL_CONTROL, controlnets, model_control
from underpaint.build.pipelines import pipeline
from underpaint.build.recipes import FamilyRecipe
from underpaint.build.server_models import cache, front_doors
from underpaint.build.shapes import VERSION, Shapes, config_json, read_json
from underpaint.build.variant_models import controlled, variant_models
from underpaint.deployment import FILE_NAME, Deployment, Scorer, Variant
from underpaint.diffusion.schedulers import scheduler_names
from underpaint.errors import InvalidArgument
from underpaint.triton import model_config as mc
from underpaint.triton.tokenization import EMBED_TOKENIZER, PromptTokenizer
from underpaint.triton.versions import Versioned


def _data(folder: str) -> Path:
    """A folder of the checkout, or the copy of it that an installed package carries."""
    checkout = Path(__file__).resolve().parents[2] / folder
    return checkout if checkout.is_dir() else Path(__file__).resolve().parents[1] / "data" / folder


ENSEMBLES = _data("ensembles")
FAMILIES = _data("build/families")
PIPELINES = {"text_to_image": "", "refine": "_refine", "resume": "_resume"}

_TEXT_ENCODER_BATCH = 32
_PARTS = ("_text_encoder", "_unet", "_vae_encoder", "_vae_decoder")  # whose weights decide what a variant paints
_EMBEDDERS = ("embed_text", "embed_image")
_SCORERS = ("router", "discriminator")


def render(recipe: FamilyRecipe, repository: Path) -> dict[Path, str]:
    """Every file that is written rather than trained, relative to ``repository``, with its text."""
    files: dict[Path, str] = {}
    shapes = {v.name: Shapes.read(repository, v.name) for v in recipe.variants}
    configs = [*_tokenizers(recipe, shapes), *front_doors(_called(recipe)), cache()]
    for variant in recipe.variants:
        configs += variant_models(variant, shapes[variant.name], repository)
    able = [controlled(v, shapes[v.name]) for v in recipe.variants if v.controlnets]
    if able:
        configs += [model_control(), *controlnets(able[0], repository)]
    if recipe.clip:
        configs += _embedders(recipe, repository)
    if recipe.routing:
        configs += _scorers(repository)
    configs += [
        pipeline(ENSEMBLES / f"{kind}.pbtxt", variant, variant.tokenizer or recipe.name, shapes[variant.name])
        for kind in PIPELINES
        for variant in recipe.variants
    ]
    versioned = Versioned.of(shapes, configs)
    for config in configs:
        files[Path(config.name) / "config.pbtxt"] = mc.to_text(versioned.pinned(config, VERSION))
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


# The models of a family, and of the server ----------------------------------------------------------------------


def _tokenizers(recipe: FamilyRecipe, shapes: Mapping[str, Shapes]) -> list[mc.ModelConfig]:
    lengths: dict[str, Mapping[str, int]] = {}
    for variant in recipe.variants:
        name, own = variant.tokenizer or recipe.name, shapes[variant.name].sequence_lengths
        if lengths.setdefault(name, own) != own:
            allowed = f"{dict(lengths[name])}, as the others that {name}_tokenizer reads for"
            raise InvalidArgument.of(f"{variant.name}: lengths of its text", dict(own), allowed)
    return [_tokenizer(f"{name}_tokenizer", own) for name, own in lengths.items()]


def _tokenizer(name: str, lengths: Mapping[str, int]) -> mc.ModelConfig:
    inputs = [
        mc.model_input("prompt", "STRING", [1]),
        mc.model_input("negative_prompt", "STRING", [1], optional=True),
    ]
    outputs = [
        *(mc.model_output(p + ids, "INT32", [n]) for ids, n in lengths.items() for p in ("", "negative_")),
        mc.model_output("prompt_tokens", "INT32", [2]),
    ]
    return mc.python_model(name, inputs, outputs, max_batch_size=1)


def _embedders(recipe: FamilyRecipe, repository: Path) -> list[mc.ModelConfig]:
    """The two towers that retrieval looks with, and the tokenizer of the first where it has one of its own."""
    text = config_json(repository, "embed_text")
    length = text["max_position_embeddings"]
    own = [_tokenizer(EMBED_TOKENIZER, {"input_ids": length})] if recipe.retrieval_model else []
    embedding = [mc.model_output("embedding", "FP32", [text["projection_dim"]])]
    ids = [mc.model_input("input_ids", "INT32", [length])]
    side = config_json(repository, "embed_image")["image_size"] or -1  # a tower that resizes takes any
    image = [mc.model_input("image", "UINT8", [side, side, 3])]
    size = recipe.variants[0].sizes[0][::-1]
    return [
        *own,
        mc.onnx_model("embed_text", ids, embedding, max_batch_size=_TEXT_ENCODER_BATCH),
        mc.onnx_model("embed_image", image, embedding, max_batch_size=_TEXT_ENCODER_BATCH, free_dims={"image": size}),
    ]


def _scorers(repository: Path) -> list[mc.ModelConfig]:
    """Router and discriminator; prompts are tokenized as for the variants."""
    side = config_json(repository, "discriminator")["image_size"]
    image = mc.model_input("image", "UINT8", [side, side, 3])
    return [_scorer(repository, "router", []), _scorer(repository, "discriminator", [image])]


def _scorer(repository: Path, name: str, inputs: list[mc.ModelInput]) -> mc.ModelConfig:
    ids = mc.model_input("input_ids", "INT32", [config_json(repository, name)["max_position_embeddings"]])
    score = mc.model_output("score", "FP32", [1])
    return mc.onnx_model(name, [*inputs, ids], [score], max_batch_size=_TEXT_ENCODER_BATCH)


def _called(recipe: FamilyRecipe) -> str:
    """What the front doors call, so that they are ready only when it is (the pipelines bring in all else)."""
    pipelines = [variant.name + suffix for variant in recipe.variants for suffix in PIPELINES.values()]
    return ",".join([*pipelines, *(_SCORERS if recipe.routing else ())])


_ADAPTERS = {
    "_tokenizer": "tokenizer_model",
    "_denoiser": "denoiser_model",
    "generate_stream": "generate_stream_model",
    "generate": "generate_model",
    "cache": "cache_model",
    MODEL_CONTROL: "model_control_model",
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
            schedulers=scheduler_names(read_json(repository / f"{v.name}_denoiser" / "1" / "scheduler_config.json")),
            prompt_tokens=_prompt_tokens(repository, v.tokenizer or recipe.name),
            loras=v.loras,
            controlnets=v.controlnets,
            weights=weights_of(repository, v.name),
            autoencoder=_autoencoder(repository, v.name),
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


def _prompt_tokens(repository: Path, family: str) -> int:
    return PromptTokenizer.load(repository / f"{family}_tokenizer" / str(VERSION)).prompt_tokens


def _what_foresees(repository: Path, name: str) -> Scorer:
    config = config_json(repository, name)
    return Scorer(_weights(repository, [name]), config["small_weights"], tuple(config["quantiles"]))


def weights_of(repository: Path, variant: str, version: int = VERSION) -> str:
    """A short hash over all weights that decide what a variant paints; empty where it has none."""
    return _weights(repository, [variant + part for part in _PARTS], version)


def _autoencoder(repository: Path, variant: str) -> str:
    """A short hash over the VAE's weights and how its latents are scaled; empty where it has none."""
    weights = _weights(repository, [f"{variant}_vae_encoder", f"{variant}_vae_decoder"])
    config = config_json(repository, f"{variant}_vae_decoder")
    scales = [(name, config[name]) for name in sorted(config) if name.startswith(("scaling", "shift", "latents_"))]
    return hashlib.sha256(f"{weights} {scales}".encode()).hexdigest()[:12] if weights else ""


def _weights(repository: Path, models: Sequence[str], version: int = VERSION) -> str:
    """A short hash over the weights of some models; empty where they have none."""
    folders = [repository / model / str(version) for model in models]
    files = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    if not files:
        return ""
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in files)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]
