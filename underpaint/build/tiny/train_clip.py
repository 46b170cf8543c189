"""Training the family's CLIP: two towers that put a picture and what is said of it in the same direction.

Two losses, on scenes of a stream of its own. The symmetric contrastive loss of Radford et al. 2021 (arXiv:2103.00020,
section 2.3) tells which caption of a batch belongs to which picture. What a cache asks is another question: is this
picture the one, yes or no, at a similarity that means the same for every prompt; so the pairwise sigmoid loss of
Zhai et al. 2023 (arXiv:2303.15343, algorithm 1) stands beside it. And since what a cache has to tell apart are pictures
of nearly the same scene, a batch holds scenes together with edits of them.

The server retrieves with it; nothing that paints or judges has seen its weights.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from underpaint.build.autoencoders import normalise
from underpaint.build.tiny import checkpoints
from underpaint.build.tiny.architectures import TOKENS
from underpaint.build.tiny.data import CLIP_STREAM, pixels
from underpaint.build.tiny.edits import edit, placed_anew, told_the_other_way
from underpaint.build.tiny.scenes import PHRASINGS, SIDE, Scene, caption, is_held_out, stream
from underpaint.build.tiny.tokenizer import encode

EDITS = (1, 1, 2)  # attributes changed in each picture that a scene's group has besides its own
GROUPS = 48  # in a batch
WIDTH = 128
PATCH = 16
PIXEL_NOISE = 0.05  # of [-1, 1]: what is embedded at the server was painted, not drawn


@dataclass(frozen=True)
class Pairs:
    """Groups of a scene and edits of it.

    `images` uint8 [N, group, 64, 64, 3]; `ids` int16 [N, group, ways to tell it, 24].
    """

    images: torch.Tensor
    ids: torch.Tensor


def build_clip(vocabulary: int) -> CLIPModel:
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": WIDTH // 16,
        "projection_dim": WIDTH,
    }
    return CLIPModel(
        CLIPConfig(
            text_config={
                **tower,
                "num_hidden_layers": 2,
                "vocab_size": vocabulary,
                "max_position_embeddings": TOKENS,
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
                "pad_token_id": vocabulary - 1,
            },
            vision_config={**tower, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": PATCH},
            projection_dim=WIDTH,
        )
    )


def load_exported(clip: CLIPModel, repository: Path) -> None:
    """Take up the two towers as the repository has them."""
    text = CLIPTextModelWithProjection.from_pretrained(repository / "embed_text" / "1", torch_dtype=torch.float32)
    image = CLIPVisionModelWithProjection.from_pretrained(repository / "embed_image" / "1", torch_dtype=torch.float32)
    clip.text_model.load_state_dict(text.text_model.state_dict())
    clip.vision_model.load_state_dict(image.vision_model.state_dict())
    clip.text_projection.load_state_dict(text.text_projection.state_dict())
    clip.visual_projection.load_state_dict(image.visual_projection.state_dict())


def load_pairs(cache: Path, tokenizer: CLIPTokenizer, groups: int) -> Pairs:
    """The pairs in `cache`, or freshly drawn ones."""
    saved = checkpoints.load(cache)
    if saved is None or saved["images"].shape[:2] != (groups, 1 + len(EDITS)):
        pairs = draw_pairs(tokenizer, groups)
        checkpoints.save(cache, vars(pairs).copy())
        return pairs
    return Pairs(**saved)


def draw_pairs(tokenizer: CLIPTokenizer, groups: int) -> Pairs:
    images, ids, rng = [], [], random.Random("edits")
    for scene in tqdm(stream(CLIP_STREAM, groups), desc="drawing scenes", total=groups, disable=None):
        group = [scene, *(_edited(rng, scene, count) for count in EDITS)]
        images.append(pixels(group))
        ids.append([encode(tokenizer, list(_told(each))) for each in group])
    return Pairs(torch.stack(images), torch.tensor(ids, dtype=torch.int16))


def _edited(rng: random.Random, scene: Scene, count: int) -> Scene:
    """Of what training may show; its things are a few pixels elsewhere."""
    while (edited := edit(rng, scene, count)) is None or any(map(is_held_out, edited.things)):
        pass
    return placed_anew(rng, edited)


def _told(scene: Scene) -> Iterator[str]:
    for way in (scene, told_the_other_way(scene)):
        yield from (caption(way, phrasing) for phrasing in range(PHRASINGS))


class ClipTask:
    """Tell which of a batch's captions belongs to which of its pictures."""

    def __init__(self, pairs: Pairs, vocabulary: int, seed: int = 0, groups: int = GROUPS) -> None:
        torch.manual_seed(seed)
        self.pairs, self.groups = pairs, groups
        self.clip = build_clip(vocabulary)
        # Temperature and bias of the sigmoid loss, begun as Zhai et al. do; the towers alone are exported.
        self.verdict = nn.ParameterList([torch.tensor(math.log(10.0)), torch.tensor(-10.0)])
        self.modules = nn.ModuleDict({"clip": self.clip, "verdict": self.verdict})

    def loss(self, step: int) -> torch.Tensor:
        rows = torch.randint(len(self.pairs.images), (self.groups,))
        images = normalise(self.pairs.images[rows].flatten(0, 1))
        images = images + PIXEL_NOISE * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)
        told = self.pairs.ids[rows].flatten(0, 1)
        ids = told[torch.arange(len(told)), torch.randint(told.shape[1], (len(told),))].long()
        output = self.clip(input_ids=ids, pixel_values=images)
        own, logits = torch.arange(len(ids)), output.logits_per_text
        contrastive = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return contrastive + self._pairwise(output.text_embeds @ output.image_embeds.T)

    def _pairwise(self, similarities: torch.Tensor) -> torch.Tensor:
        """Each caption and each picture: do they belong together?"""
        temperature, bias = self.verdict
        belongs = 2 * torch.eye(len(similarities)) - 1
        return -F.logsigmoid(belongs * (similarities * temperature.exp() + bias)).sum() / len(similarities)
