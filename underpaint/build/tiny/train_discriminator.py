"""Training the discriminator: first to read, then to foresee what the judge will say.

Pictures of the small variant and verdicts on them are dear, drawn scenes are not. So the network learns to read
pictures and captions on drawn scenes, spoilt in the ways in which a small model spoils them, and to tell true captions
from edited ones; of judged pictures it then needs some thousands, and goes on reading meanwhile.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from underpaint.build.autoencoders import denormalise, normalise
from underpaint.build.tiny import checkpoints
from underpaint.build.tiny.data import pixels
from underpaint.build.tiny.facts import facts
from underpaint.build.tiny.routing_data import Judged, Share, captions_of, edited, scenes_of
from underpaint.build.tiny.scorers import Discriminator, Scorer, scorer_config
from underpaint.build.tiny.tokenizer import encode
from underpaint.build.tiny.train_variant import reading_loss

BATCH = 64
READING_STREAM = 8  # of drawn scenes
RECONSTRUCTED = 4  # one in so many drawn scenes has been through the autoencoder
LATENT_NOISE = 0.5  # at most; latents are near unit variance
PIXEL_NOISE = 0.08  # at most, of [-1, 1]
FACTS_WEIGHT = 0.5
TRUTH_WEIGHT = 0.2


@dataclass(frozen=True)
class Lessons:
    """Drawn scenes, and of each its caption and one that is not quite true.

    `images` uint8 [N, 64, 64, 3]; `ids` int16 [N, 2, 24]; `facts` int8 [N, 2, facts]. The true one comes first.
    """

    images: torch.Tensor
    ids: torch.Tensor
    facts: torch.Tensor


def load_lessons(cache: Path, tokenizer: CLIPTokenizer, autoencoder: AutoencoderTiny, count: int) -> Lessons:
    """The lessons in `cache`, or freshly drawn ones."""
    saved = checkpoints.load(cache)
    if saved is None or len(saved["images"]) != count:
        lessons = draw_lessons(tokenizer, autoencoder, count)
        checkpoints.save(cache, vars(lessons).copy())
        return lessons
    return Lessons(**saved)


def draw_lessons(tokenizer: CLIPTokenizer, autoencoder: AutoencoderTiny, count: int) -> Lessons:
    """Scenes of the training share; some of them have been through the autoencoder, and not unharmed."""
    torch.manual_seed(READING_STREAM)
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    rng, scenes = random.Random(READING_STREAM), scenes_of(Share.TRAINING, READING_STREAM)
    images, ids, told, batch = [], [], [], 100
    for first in tqdm(range(0, count, batch), desc="drawing lessons", disable=None):
        drawn = list(itertools.islice(scenes, min(batch, count - first)))
        wrong = [edited(rng, scene) for scene in drawn]
        images.append(_reconstruct_some(autoencoder, pixels(drawn)))
        captions = (captions_of(drawn, first), captions_of(wrong, first + 1))
        ids.append(np.stack([encode(tokenizer, each) for each in captions], axis=1))
        told.append(np.stack([[facts(scene) for scene in each] for each in (drawn, wrong)], axis=1))
    stacked = (torch.from_numpy(np.concatenate(each)) for each in (ids, told))
    return Lessons(torch.cat(images), next(stacked).short(), next(stacked).char())


@torch.no_grad()
def _reconstruct_some(autoencoder: AutoencoderTiny, images: torch.Tensor) -> torch.Tensor:
    """uint8 to uint8 [B, 64, 64, 3]; one in `RECONSTRUCTED` is decoded from latents with some noise."""
    some = slice(None, None, RECONSTRUCTED)
    with torch.autocast("cpu", torch.bfloat16):
        chosen = normalise(images[some]).to(memory_format=torch.channels_last)
        latents = autoencoder.encode(chosen).latents.float()
        scale = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1) / autoencoder.config.scaling_factor
        decoded = autoencoder.decode(latents + scale * torch.randn_like(latents)).sample
    images = images.clone()
    images[some] = denormalise(decoded.float())
    return images


class DiscriminatorTask:
    """Reading alone, or, with judged pictures, mostly these."""

    def __init__(
        self, lessons: Lessons, vocabulary: int, judged: Judged | None = None, seed: int = 0, batch: int = BATCH
    ) -> None:
        torch.manual_seed(seed)
        self.lessons, self.judged, self.batch = lessons, judged, batch
        self.discriminator = Discriminator(scorer_config(vocabulary)).to(memory_format=torch.channels_last)
        self.modules = nn.ModuleDict({"discriminator": self.discriminator})

    def loss(self, step: int) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            if self.judged is None:
                return self._reading(self.batch)
            return self._judging(self.judged, self.batch - self.batch // 4) + 0.5 * self._reading(self.batch // 4)

    def _reading(self, batch: int) -> torch.Tensor:
        """What pictures show and captions tell, and whether that is the same."""
        rows, wrong = torch.randint(len(self.lessons.images), (batch,)), torch.randint(2, (batch,))
        shown = self.discriminator.look(spoil(_pictures(self.lessons.images[rows])))
        told = self.discriminator.read(self.lessons.ids[rows, wrong].long())
        logit, _ = self.discriminator.compare(shown, told)
        true = F.binary_cross_entropy_with_logits(logit.float(), 1 - wrong.float())
        facts = self.lessons.facts[rows].long()
        read = reading_loss(shown.facts.float(), facts[:, 0])
        heard = reading_loss(
            told.facts.float(), facts.gather(1, wrong.view(-1, 1, 1).expand(-1, 1, facts.shape[2]))[:, 0]
        )
        return read + heard + TRUTH_WEIGHT * true

    def _judging(self, judged: Judged, batch: int) -> torch.Tensor:
        rows = torch.randint(len(judged), (batch,))
        shown = self.discriminator.look(_pictures(judged.images[rows]))
        told = self.discriminator.read(judged.ids[rows].long())
        logit, agreement = self.discriminator.compare(shown, told)
        overall = F.binary_cross_entropy_with_logits(logit.float(), judged.right[rows])
        return overall + FACTS_WEIGHT * told_loss(agreement.float().logit(), judged.verdicts[rows])


def spoil(images: torch.Tensor) -> torch.Tensor:
    """Blur pictures [B, 3, H, W] a little, and add a little noise."""
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = torch.lerp(images, blurred, torch.rand(len(images), 1, 1, 1).square())
    return images + PIXEL_NOISE * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)


def _pictures(images: torch.Tensor) -> torch.Tensor:
    return normalise(images).to(memory_format=torch.channels_last)


def told_loss(logits: torch.Tensor, verdicts: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the facts that were told: `logits` and `verdicts` [B, facts], -1 for the others."""
    losses = F.binary_cross_entropy_with_logits(logits, verdicts.clamp_min(0), reduction="none")
    told = (verdicts >= 0).float()
    return (losses * told).sum() / told.sum().clamp_min(1)


@torch.no_grad()
def confidence(discriminator: Scorer, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits [N] for pictures uint8 [N, 64, 64, 3] and ids [N, 24]."""
    batches = zip(images.split(256), ids.split(256), strict=True)
    return torch.cat([discriminator(normalise(each), text.long()) for each, text in batches])
