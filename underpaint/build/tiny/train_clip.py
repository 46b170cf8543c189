"""Training the family's CLIP: two towers that put a picture and what is said of it in the same direction.

The symmetric contrastive loss of Radford et al. 2021 (arXiv:2103.00020, section 2.3), on scenes of a stream of
its own. The server retrieves with it; nothing that paints or judges has seen its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from underpaint.build.tiny import checkpoints
from underpaint.build.tiny.architectures import TOKENS
from underpaint.build.tiny.data import CLIP_STREAM, normalise, pixels
from underpaint.build.tiny.scenes import PHRASINGS, SIDE, caption, stream
from underpaint.build.tiny.tokenizer import encode

BATCH = 192
WIDTH = 128
PATCH = 16
PIXEL_NOISE = 0.05  # of [-1, 1]: what is embedded at the server was painted, not drawn


@dataclass(frozen=True)
class Pairs:
    """`images` uint8 [N, 64, 64, 3]; `ids` int16 [N, phrasings, 24]."""

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


def load_pairs(cache: Path, tokenizer: CLIPTokenizer, count: int) -> Pairs:
    """The pairs in `cache`, or freshly drawn ones."""
    saved = checkpoints.load(cache)
    if saved is None or len(saved["images"]) != count:
        pairs = draw_pairs(tokenizer, count)
        checkpoints.save(cache, vars(pairs).copy())
        return pairs
    return Pairs(**saved)


def draw_pairs(tokenizer: CLIPTokenizer, count: int) -> Pairs:
    images, ids, batch = [], [], 500
    for first in tqdm(range(0, count, batch), desc="drawing scenes", disable=None):
        scenes = list(stream(CLIP_STREAM, min(batch, count - first), first=first))
        images.append(pixels(scenes))
        ids += [encode(tokenizer, [caption(scene, way) for way in range(PHRASINGS)]) for scene in scenes]
    return Pairs(torch.cat(images), torch.tensor(ids, dtype=torch.int16))


class ClipTask:
    """Tell which of a batch's captions belongs to which of its pictures."""

    def __init__(self, pairs: Pairs, vocabulary: int, seed: int = 0, batch: int = BATCH) -> None:
        torch.manual_seed(seed)
        self.pairs, self.batch = pairs, batch
        self.clip = build_clip(vocabulary)
        self.modules = nn.ModuleDict({"clip": self.clip})

    def loss(self, step: int) -> torch.Tensor:
        rows = torch.randint(len(self.pairs.images), (self.batch,))
        phrasings = torch.randint(self.pairs.ids.shape[1], (self.batch,))
        images = normalise(self.pairs.images[rows])
        images = images + PIXEL_NOISE * torch.rand(self.batch, 1, 1, 1) * torch.randn_like(images)
        output = self.clip(input_ids=self.pairs.ids[rows, phrasings].long(), pixel_values=images)
        own = torch.arange(self.batch)
        logits = output.logits_per_text
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
