"""What a variant's graphs say of themselves, so that a recipe cannot contradict its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underpaint.build.signatures import Signature
from underpaint.errors import NotFound

VERSION = 1  # of every component of a fresh repository

_LEVELS = ("block_out_channels", "decoder_block_out_channels")  # AutoencoderKL's, and those of the others


@dataclass(frozen=True)
class Shapes:
    """The graphs of a variant; in each direction, how many pixels a latent stands for, and how many latents a token of
    the network (for a UNet, which knows no tokens, 1)."""

    text_encoder: Signature
    unet: Signature
    vae_encoder: Signature
    vae_decoder: Signature
    vae_scale_factor: int
    patch_size: int

    @classmethod
    def read(cls, repository: Path, variant: str) -> Shapes:
        """Raises NotFound where a component is missing."""

        def graph(part: str) -> Signature:
            return Signature.read(repository / f"{variant}_{part}" / str(VERSION) / "model.onnx")

        factor = vae_scale_factor(config_json(repository, f"{variant}_vae_decoder"))
        unet = graph("unet")
        patch_size = _patch_size(config_json(repository, f"{variant}_unet"), unet.inputs["sample"].row[0])
        return cls(graph("text_encoder"), unet, graph("vae_encoder"), graph("vae_decoder"), factor, patch_size)

    @property
    def latent_channels(self) -> int:
        return self.unet.inputs["sample"].row[0]

    @property
    def sequence_lengths(self) -> Mapping[str, int]:
        """Of what each tokenizer makes, by the text encoder's input."""
        return {name: spec.row[0] for name, spec in self.text_encoder.inputs.items() if name.startswith("input_ids")}

    @property
    def embeds(self) -> tuple[int, int]:
        """Tokens and width of what the network is told."""
        tokens, width = self.text_encoder.outputs["last_hidden_state"].row
        return tokens, width

    @property
    def guidance_embeds(self) -> bool:
        """Whether guidance is built into the weights, which are told its scale."""
        return "guidance" in self.unet.inputs


def vae_scale_factor(config: Mapping[str, Any]) -> int:
    """From an autoencoder's config.json: every level but the first halves the side."""
    levels = next(config[name] for name in _LEVELS if name in config)
    return int(2 ** (len(levels) - 1))


def _patch_size(config: Mapping[str, Any], channels: int) -> int:
    """From a network's config.json: its own patches, of what diffusers' pipeline packs before (FLUX: 2x2 latents, whose
    channels become one token's)."""
    return int(config.get("patch_size", 1)) * math.isqrt(config["in_channels"] // channels)


def config_json(repository: Path, model: str) -> dict[str, Any]:
    """The config.json beside a component's graph. Raises NotFound where there is none."""
    return read_json(repository / model / str(VERSION) / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"{path} is missing: train or export the family before its repository is rendered")
    values: dict[str, Any] = json.loads(path.read_text())
    return values
