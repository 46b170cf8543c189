"""The models of a variant: config.pbtxt for its graphs, as the graphs say themselves, and for its denoiser."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

from underpaint.build.controlnet_configs import MODEL_CONTROL, Controlled, halves
from underpaint.build.recipes import VariantRecipe
from underpaint.build.shapes import VERSION, Shapes
from underpaint.build.signatures import Signature, TensorSpec
from underpaint.triton import model_config as mc

# What the text encoder gives, and the name that diffusers' pipelines have for it, on its way to the denoiser.
TEXT_OUTPUTS = {
    "last_hidden_state": "prompt_embeds",
    "pooled_projections": "pooled_prompt_embeds",
    "attention_mask": "prompt_attention_mask",
}


def variant_models(variant: VariantRecipe, shapes: Shapes, repository: Path) -> list[ModelConfig]:
    """Everything under the variant's name but its pipelines."""
    return [
        _text_encoder(variant, shapes),
        _unet(variant, shapes),
        _denoiser(variant, shapes, repository),
        _vae_encoder(variant, shapes),
        _vae_decoder(variant, shapes),
        *(_twin(variant, shapes, repository, name) for name in lora_twins(variant, repository)),
        *(halves(controlled(variant, shapes), repository) if variant.controlnets else ()),
    ]


def lora_twins(variant: VariantRecipe, repository: Path) -> list[str]:
    """The twins for LoRAs that the variant has: of the UNet's attention, of all its layers, of its text encoder."""
    if not variant.loras:
        return []
    named = (("unet", "lora"), ("unet", "locon"), ("text_encoder", "lora"))
    folders = {network: repository / f"{variant.name}_{network}" / str(VERSION) for network, _ in named}
    return [
        f"{variant.name}_{network}_{kind}" for network, kind in named if (folders[network] / f"{kind}.onnx").is_file()
    ]


# Graphs ---------------------------------------------------------------------------------------------------------


def graph_inputs(signature: Signature) -> list[ModelInput]:
    """Those of a graph whose first dimension is Triton's batch."""
    return [_input(spec) for spec in signature.inputs.values()]


def _input(spec: TensorSpec) -> ModelInput:
    if not spec.row:
        return mc.scalar_per_row(spec.name, spec.dtype)
    return mc.model_input(spec.name, spec.dtype, spec.row)


def graph_outputs(signature: Signature) -> list[ModelOutput]:
    return [mc.model_output(spec.name, spec.dtype, spec.row) for spec in signature.outputs.values()]


def _text_encoder(variant: VariantRecipe, shapes: Shapes) -> ModelConfig:
    return mc.onnx_model(
        f"{variant.name}_text_encoder",
        graph_inputs(shapes.text_encoder),
        graph_outputs(shapes.text_encoder),
        variant.text_batch,
        kind=variant.kind,
        response_cache=True,  # every request has a negative prompt, and nearly all of them the same
        # Ids that may follow an instruction are at least as many as the states that are kept of them.
        free_dims={name: shapes.embeds[:1] for name, length in shapes.sequence_lengths.items() if length < 0},
    )


def _unet(variant: VariantRecipe, shapes: Shapes) -> ModelConfig:
    return mc.onnx_model(
        f"{variant.name}_unet",
        graph_inputs(shapes.unet),
        graph_outputs(shapes.unet),
        variant.max_rows,
        variant.unet_instances,
        variant.unet_threads,
        kind=variant.kind,
        channels_last=variant.channels_last,
        free_dims={"sample": _latent_size(variant, shapes)},
        # Its one caller, the denoiser, sends each instance what it should run; merging would leave others idle.
        dynamic_batching=False,
    )


def _twin(variant: VariantRecipe, shapes: Shapes, repository: Path, name: str) -> ModelConfig:
    """A twin stands beside the weights that it shares with the network; only its config is apart.

    It has no batch dimension in Triton's sense, since a bank has fewer rows than its batch.
    """
    network, kind = name.rsplit("_", 1)
    signature = Signature.read(repository / network / str(VERSION) / f"{kind}.onnx")
    of_unet = network.endswith("_unet")
    return mc.onnx_model(
        name,
        [mc.model_input(spec.name, spec.dtype, spec.declared) for spec in signature.inputs.values()],
        [mc.model_output(spec.name, spec.dtype, spec.declared) for spec in signature.outputs.values()],
        0,
        variant.unet_instances if of_unet and kind == "lora" else 1,  # few LoRAs go farther than attention
        variant.unet_threads if of_unet else 1,
        kind=variant.kind,
        channels_last=variant.channels_last,
        free_dims={"sample": (1, *_latent_size(variant, shapes))},
        dynamic_batching=False,
        model_file=f"../../{network}/{VERSION}/{kind}.onnx",
    )


def _vae_encoder(variant: VariantRecipe, shapes: Shapes) -> ModelConfig:
    width, height = variant.sizes[0]
    return mc.onnx_model(
        f"{variant.name}_vae_encoder",
        graph_inputs(shapes.vae_encoder),
        graph_outputs(shapes.vae_encoder),
        variant.vae_batch,
        kind=variant.kind,
        channels_last=variant.channels_last,
        free_dims={"image": (height, width)},
    )


def _vae_decoder(variant: VariantRecipe, shapes: Shapes) -> ModelConfig:
    return mc.onnx_model(
        f"{variant.name}_vae_decoder",
        graph_inputs(shapes.vae_decoder),
        graph_outputs(shapes.vae_decoder),
        variant.vae_batch,
        kind=variant.kind,
        channels_last=variant.channels_last,
        free_dims={"latents": _latent_size(variant, shapes)},
    )


def _latent_size(variant: VariantRecipe, shapes: Shapes) -> tuple[int, int]:
    """Height and width of the latents at the variant's first size."""
    width, height = variant.sizes[0]
    return height // shapes.vae_scale_factor, width // shapes.vae_scale_factor


# The denoiser ---------------------------------------------------------------------------------------------------


def _denoiser(variant: VariantRecipe, shapes: Shapes, repository: Path) -> ModelConfig:
    latents = [shapes.latent_channels, -1, -1]
    inputs = [
        mc.model_input("op", "STRING", [1], optional=True),
        *_told(shapes),
        mc.model_input("seed", "INT64", [1], optional=True),
        mc.model_input("num_inference_steps", "INT32", [1], optional=True),
        mc.model_input("guidance_scale", "FP32", [1], optional=True),
        mc.model_input("scheduler", "STRING", [1], optional=True),
        mc.model_input("height", "INT32", [1], optional=True),
        mc.model_input("width", "INT32", [1], optional=True),
        mc.model_input("start_step", "INT32", [1], optional=True),
        mc.model_input("image_latents", "FP32", latents, optional=True),
        mc.model_input("start_latents", "FP32", latents, optional=True),
        mc.model_input("capture_steps", "INT32", [-1], optional=True),
        mc.model_input("control_image", "UINT8", [-1, -1, -1, 3], optional=True),
        *_ids(shapes),
    ]
    outputs = [
        mc.model_output("latents", "FP32", latents),
        mc.model_output("captured_latents", "FP32", [-1, *latents]),
        mc.model_output("timings_ns", "INT64", [4]),
        mc.model_output("progress", "INT32", [2]),
        mc.model_output("steps_run", "INT32", [1]),
        mc.model_output("lora_steps", "INT32", [-1]),
        mc.model_output("controlnet_steps", "INT32", [-1]),
        mc.model_output("alive_since_ns", "INT64", [1]),
    ]
    unet, twins = f"{variant.name}_unet", lora_twins(variant, repository)
    parameters = {
        # The front door feels its pulse and errors those who wait for it, so a new process is all that is needed.
        "heartbeat": "true",
        "on_death": "reload",
        "calls": ",".join([unet, *twins, *([MODEL_CONTROL] if variant.controlnets else [])]),
        "unet": unet,
        "unet_timeout_s": variant.unet_timeout_s,
        "max_rows": variant.max_rows,
        "stacks_in_flight": variant.unet_instances,
        "latent_channels": shapes.latent_channels,
        "vae_scale_factor": shapes.vae_scale_factor,
        "sizes": ",".join(f"{width}x{height}" for width, height in variant.sizes),
    }
    if shapes.guidance_embeds:
        parameters["guidance_embeds"] = "true"
    if shapes.patch_size > 1:
        parameters["patch_size"] = shapes.patch_size
    if variant.loras:
        parameters |= {
            "lora_twins": ",".join(twin for twin in twins if twin.startswith(unet)),
            "lora_text_twin": ",".join(twin for twin in twins if not twin.startswith(unet)),
            "loras": "",  # where they are found; empty: what the environment says, see addons/location.py
            "lora_memory_mb": variant.lora_memory_mb,
            "lora_timeout_s": variant.lora_timeout_s,
        }
    if variant.controlnets:
        parameters |= {
            "unet_halves": ",".join(controlled(variant, shapes).halves),
            "controlnets_resident": variant.controlnets_resident,
            "controlnet_timeout_s": variant.controlnet_timeout_s,
        }
    return mc.python_model(f"{variant.name}_denoiser", inputs, outputs, max_batch_size=1, parameters=parameters)


def controlled(variant: VariantRecipe, shapes: Shapes) -> Controlled:
    return Controlled(
        variant.name,
        shapes.unet.inputs["sample"].row,
        shapes.embeds,
        shapes.vae_decoder.outputs["image"].row,
        variant.unet_instances,
        variant.unet_threads,
        variant.max_rows,
    )


def _told(shapes: Shapes) -> Iterable[ModelInput]:
    """What the text encoder makes of the prompt and, where guidance takes a second row, of the negative prompt."""
    for output, name in TEXT_OUTPUTS.items():
        if output in shapes.text_encoder.outputs:
            spec = shapes.text_encoder.outputs[output]
            for prompt in prompts(shapes):
                yield mc.model_input(prompt + name, spec.dtype, spec.row, optional=True)


def prompts(shapes: Shapes) -> tuple[str, ...]:
    """The prefixes of the prompts that are read."""
    return ("",) if shapes.guidance_embeds else ("", "negative_")


def _ids(shapes: Shapes) -> Iterable[ModelInput]:
    """The tokens, for LoRAs that have the prompts read again."""
    for name, length in shapes.sequence_lengths.items():
        yield mc.model_input(name, "INT32", [length], optional=True)
        yield mc.model_input(f"negative_{name}", "INT32", [length], optional=True)
