"""The two networks that route: one scores a prompt, one a picture of it. Neither shares anything with the judge.

Both read captions with a small CLIP text transformer of their own. The discriminator also reads pictures, with a small
convolutional network, and compares the two readings fact by fact (see `facts`): what the caption says and the picture
shows with certainty agrees, what either is unsure of agrees by half. What is served as discriminator is advised by the
router, which has learnt more of what prompts are hard.

Scores are calibrated probabilities: `scale` and `offset` of the config, fitted on captions that the weights have not
seen, turn logits into them (Platt 1999).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.models.clip.modeling_clip import CLIPPreTrainedModel

from underpaint.build.tiny.architectures import TOKENS
from underpaint.build.tiny.facts import CLASSES

TEXT_WIDTH = 64
TEXT_LAYERS = 2
CHANNELS = (32, 48, 96)  # at 32 x 32, 16 x 16 and 8 x 8
BLOCKS = (0, 1, 2)
FEATURES = 192  # of a picture
HIDDEN = 64
NORM_GROUPS = 8
_LEAST_AGREEMENT = 1e-4


def scorer_config(vocabulary: int) -> CLIPTextConfig:
    """Of either network; `vocabulary` counts the tokenizer's entries, of which the last two are begin and end."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_WIDTH // 16,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        scale=1.0,
        offset=0.0,
    )


class Reading(NamedTuple):
    """What a network makes of captions or pictures: `features` [B, D], `facts` [B, sum of classes], logits."""

    features: torch.Tensor
    facts: torch.Tensor


class Scorer(CLIPPreTrainedModel):
    """Gives logits."""

    config_class = CLIPTextConfig

    def probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Calibrated."""
        return torch.sigmoid(self.config.scale * logits + self.config.offset)


class Reader(Scorer):
    """Reads captions: the text transformer, and what it makes of the facts (`reader` is of use in training)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.text_model = CLIPTextModel._from_config(config)
        self.reader = nn.Linear(config.hidden_size, sum(CLASSES))

    def read(self, ids: torch.Tensor) -> Reading:
        """Of captions, ids int64 [B, 24]; 64 features."""
        features = self.text_model(ids).pooler_output
        return Reading(features, self.reader(features))


class Router(Reader):
    """From a prompt to the chance that the small variant fails, overall and fact by fact."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, 2 * HIDDEN), nn.GELU(), nn.Linear(2 * HIDDEN, 1 + len(CLASSES))
        )
        self.post_init()

    def foresee(self, reading: Reading) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of failure: [B] of the whole picture, [B, facts] of each fact."""
        logits = self.head(reading.features)
        return logits[:, 0], logits[:, 1:]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 [B, 24] to logits of failure [B]."""
        return self.foresee(self.read(ids))[0]


class Discriminator(Reader):
    """From a prompt and a picture of it to the chance that the picture is as told."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.eye = Eye()
        self.looker = nn.Linear(FEATURES, sum(CLASSES))
        self.direct = nn.Linear(len(CLASSES), 1)
        self.head = nn.Sequential(
            nn.Linear(len(CLASSES) + FEATURES + config.hidden_size, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1)
        )
        self.post_init()
        # A picture is right when every fact is: the logarithms add up.
        nn.init.ones_(self.direct.weight)

    def look(self, images: torch.Tensor) -> Reading:
        """Of pictures [B, 3, 64, 64] in [-1, 1]; 192 features."""
        features = self.eye(images)
        return Reading(features, self.looker(features))

    def compare(self, shown: Reading, told: Reading) -> tuple[torch.Tensor, torch.Tensor]:
        """To the logit [B] that the picture is right, and how far each fact agrees, [B, facts] in (0, 1)."""
        agreement = agree(shown.facts, told.facts)
        logs = agreement.log()
        logit = self.direct(logs) + self.head(torch.cat([logs, shown.features, told.features], dim=1))
        return logit[:, 0], agreement

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, 64, 64] in [-1, 1] and ids int64 [B, 24] to logits [B] that they are right."""
        return self.compare(self.look(images), self.read(ids))[0]


class Advised(Scorer):
    """The discriminator's view of a picture and the router's of its prompt: their logits add up (a product of experts,
    Hinton 2002, for which each would have to err in its own way, and mostly does)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config)
        self.discriminator, self.router = Discriminator(config), Router(config)
        self.post_init()

    @classmethod
    def of(cls, discriminator: Discriminator, router: Router) -> Advised:
        """Both as they were trained."""
        advised = cls(discriminator.config)
        advised.discriminator, advised.router = discriminator, router
        return advised.eval()

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """As the discriminator."""
        logits: torch.Tensor = self.discriminator(images, ids) - self.router(ids)
        return logits


def agree(shown: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """The chance that two readings, fact logits [B, sum of classes] each, mean the same: [B, facts]."""
    # Not in bfloat16, in which nearly certain is certain, and its logit infinite.
    pairs = zip(shown.float().split(CLASSES, dim=1), told.float().split(CLASSES, dim=1), strict=True)
    agreement = torch.stack([(F.softmax(a, 1) * F.softmax(b, 1)).sum(1) for a, b in pairs], dim=1)
    return agreement.clamp(_LEAST_AGREEMENT, 1 - _LEAST_AGREEMENT)


class Eye(nn.Module):
    """Pictures [B, 3, 64, 64] in [-1, 1] to features [B, 192]; where things are matters, so nothing is averaged."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for channels, blocks in zip(CHANNELS, BLOCKS, strict=True):
            layers += [nn.Conv2d(inside, channels, 3, stride=2, padding=1), nn.ReLU()]
            layers += [Block(channels) for _ in range(blocks)]
            inside = channels
        squeezed = inside // 4
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, squeezed, 1), nn.Flatten())
        self.out = nn.Sequential(nn.Linear(squeezed * 64, FEATURES), nn.GELU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.out(self.layers(images))
        return features


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.layers(features)
