"""The ensembles of a variant, from the templates in ``ensembles/``.

A template says how a pipeline flows, for a text encoder that takes one row of ids and gives one tensor. What a family's
has beyond that (a second tokenizer's ids, pooled vectors, masks) takes the same ways, and is added here to each step.
"""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from underpaint.build.recipes import VariantRecipe
from underpaint.build.shapes import Shapes
from underpaint.build.variant_models import TEXT_OUTPUTS, prompts
from underpaint.triton import model_config as mc

_FIRST_IDS = "input_ids"


def pipeline(template: Path, variant: VariantRecipe, tokenizer: str, shapes: Shapes) -> ModelConfig:
    """One of ``text_to_image``, ``refine`` and ``resume`` for a variant whose prompts this family's tokenizer reads."""
    values = {"family": tokenizer, "variant": variant.name, "latent_channels": shapes.latent_channels}
    config = mc.ensemble(template.read_text(), values)
    if shapes.guidance_embeds:
        _drop_negative_prompt(config, variant)
    for ids in shapes.sequence_lengths:
        _route_ids(config, variant, ids)
    for output, name in TEXT_OUTPUTS.items():
        if output in shapes.text_encoder.outputs:
            _route_text(config, variant, output, name, prompts(shapes))
    return config


def _drop_negative_prompt(config: ModelConfig, variant: VariantRecipe) -> None:
    """Weights that guidance is built into never see it; it is tokenized, since every pipeline takes it."""
    steps = config.ensemble_scheduling.step
    place = next(i for i, step in enumerate(steps) if step.input_map.get(_FIRST_IDS) == f"negative_{_FIRST_IDS}")
    del steps[place]
    for step in steps:
        step.input_map.pop("negative_prompt_embeds", None)


def _route_ids(config: ModelConfig, variant: VariantRecipe, ids: str) -> None:
    """From the tokenizer to every text encoder and to the denoiser, which has them read again for some LoRAs."""
    for step in config.ensemble_scheduling.step:
        if step.model_name.endswith("_tokenizer"):
            step.output_map[ids], step.output_map[f"negative_{ids}"] = ids, f"negative_{ids}"
        elif step.model_name == f"{variant.name}_text_encoder":
            step.input_map[ids] = step.input_map[_FIRST_IDS].replace(_FIRST_IDS, ids)
        elif step.model_name == f"{variant.name}_denoiser":
            step.input_map[ids], step.input_map[f"negative_{ids}"] = ids, f"negative_{ids}"


def _route_text(config: ModelConfig, variant: VariantRecipe, output: str, name: str, kinds: tuple[str, ...]) -> None:
    """From the text encoders to the denoiser."""
    for step in config.ensemble_scheduling.step:
        if step.model_name == f"{variant.name}_text_encoder":
            kind = "negative_" if step.input_map[_FIRST_IDS].startswith("negative_") else ""
            step.output_map[output] = kind + name
        elif step.model_name == f"{variant.name}_denoiser":
            for kind in kinds:
                step.input_map[kind + name] = kind + name
