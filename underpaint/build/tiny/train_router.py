"""Training the router: from a prompt alone, will the small variant fail?

It starts from the discriminator's reading of captions. Each caption was painted with several seeds, and every picture
counts, so where the small variant fails now and then the router learns how often.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from underpaint.build.tiny.routing_data import Judged
from underpaint.build.tiny.scorers import Discriminator, Router, scorer_config
from underpaint.build.tiny.train_discriminator import FACTS_WEIGHT, told_loss
from underpaint.build.tiny.train_variant import reading_loss

BATCH = 128
READING_WEIGHT = 0.3


class RouterTask:
    """Failure of the whole picture, failure of each fact, and reading what was told, lest it be forgotten."""

    def __init__(
        self, judged: Judged, vocabulary: int, reader: Discriminator | None = None, seed: int = 0, batch: int = BATCH
    ) -> None:
        torch.manual_seed(seed)
        self.judged, self.batch = judged, batch
        self.router = Router(scorer_config(vocabulary))
        if reader is not None:
            self.router.text_model.load_state_dict(reader.text_model.state_dict())
            self.router.reader.load_state_dict(reader.reader.state_dict())
        self.modules = nn.ModuleDict({"router": self.router})

    def loss(self, step: int) -> torch.Tensor:
        rows = torch.randint(len(self.judged), (self.batch,))
        reading = self.router.read(self.judged.ids[rows].long())
        failure, facts = self.router.foresee(reading)
        overall = F.binary_cross_entropy_with_logits(failure, 1 - self.judged.right[rows])
        verdicts = self.judged.verdicts[rows]
        failures = torch.where(verdicts < 0, verdicts, 1 - verdicts)
        read = reading_loss(reading.facts, self.judged.facts[rows].long())
        return overall + FACTS_WEIGHT * told_loss(facts, failures) + READING_WEIGHT * read


@torch.no_grad()
def difficulty(router: Router, ids: torch.Tensor) -> torch.Tensor:
    """Logits of failure [N] for ids [N, 24]."""
    return torch.cat([router(each.long()) for each in ids.split(1024)])
