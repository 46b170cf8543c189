"""Scenes as tensors: pixels for the autoencoders, cached latents and captions for the UNets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from tqdm import tqdm
from transformers import CLIPTokenizer

from underpaint.build.autoencoders import normalise
from underpaint.build.tiny import checkpoints
from underpaint.build.tiny.facts import facts
from underpaint.build.tiny.scenes import PHRASINGS, Scene, caption, render, stream
from underpaint.build.tiny.tokenizer import encode

# Streams of scenes, by seed; streams never overlap in purpose. See `scenes.scene_at`.
AUTOENCODER_STREAM = 1
VARIANT_STREAM = 2
EVALUATION_STREAM = 3
CLIP_STREAM = 4
ROUTING_STREAM = 7


def pixels(scenes: Iterable[Scene]) -> torch.Tensor:
    """Render: uint8 [B, 64, 64, 3]."""
    return torch.from_numpy(np.stack([np.asarray(render(scene)) for scene in scenes]))


@dataclass(frozen=True)
class Corpus:
    """What a UNet learns from, held in memory.

    `latents` float16 [N, C, h, w], scaled to unit variance; `ids` int16 [N, phrasings, 24]; `empty_ids`
    int16 [24], the prompt that stands for no prompt; `facts` int8 [N, facts], see `facts.facts`.
    """

    latents: torch.Tensor
    ids: torch.Tensor
    empty_ids: torch.Tensor
    facts: torch.Tensor


def load_corpus(cache: Path, autoencoder: AutoencoderTiny, tokenizer: CLIPTokenizer, scenes: int) -> Corpus:
    """The corpus in `cache`, or a new one where that is missing or made by another autoencoder."""
    fingerprint = _fingerprint(autoencoder)
    saved = checkpoints.load(cache)
    if saved is None or saved.pop("fingerprint") != fingerprint or len(saved["latents"]) != scenes:
        corpus = encode_corpus(autoencoder, tokenizer, scenes)
        checkpoints.save(cache, {**vars(corpus), "fingerprint": fingerprint})
        return corpus
    return Corpus(**saved)


@torch.no_grad()
def encode_corpus(autoencoder: AutoencoderTiny, tokenizer: CLIPTokenizer, count: int) -> Corpus:
    """Render, encode and tokenize the first scenes of the variants' stream."""
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    latents, ids, told, batch = [], [], [], 100
    for first in tqdm(range(0, count, batch), desc="encoding scenes", disable=None):
        scenes = list(stream(VARIANT_STREAM, min(batch, count - first), first=first))
        images = normalise(pixels(scenes)).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast; its rounding is far below a pixel step
            encoded = autoencoder.encode(images).latents.float() * autoencoder.config.scaling_factor
        latents.append(encoded.half().contiguous())
        told += [facts(scene) for scene in scenes]
        ids += [encode(tokenizer, [caption(scene, way) for way in range(PHRASINGS)]) for scene in scenes]
    empty = torch.tensor(encode(tokenizer, [""])[0], dtype=torch.int16)
    return Corpus(torch.cat(latents), torch.tensor(ids, dtype=torch.int16), empty, torch.tensor(told, dtype=torch.int8))


def _fingerprint(autoencoder: AutoencoderTiny) -> float:
    return float(sum(parameter.detach().double().abs().sum() for parameter in autoencoder.parameters()))
