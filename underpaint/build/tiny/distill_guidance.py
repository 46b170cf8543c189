"""Guidance distillation: one forward learns to answer what classifier-free guidance needs two for.

Stage one of Meng et al. 2023 (arXiv:2210.03142), for one fixed scale: the student, which starts as a copy of
the teacher, learns u + w (c - u) of the teacher's answers with (c) and without (u) the caption. Told the empty
caption it learns u itself, so guidance on top of it still means what it says.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from underpaint.build.tiny.train_variant import Corrupted, VariantTask, predict_in_bfloat16


class GuidanceDistillation:
    """Trains the networks of `task`, which hold the teacher's weights when this is made."""

    def __init__(self, task: VariantTask, guidance_scale: float) -> None:
        self.task, self.guidance_scale = task, guidance_scale
        self.modules = task.modules
        self.teacher = copy.deepcopy(task.modules).requires_grad_(False)

    def loss(self, step: int) -> torch.Tensor:
        rows = self.task.draw()
        states = self.task.text_encoder(rows.ids).last_hidden_state
        predicted = predict_in_bfloat16(self.task.unet, rows.corrupted, states)
        return F.mse_loss(predicted, self._guided(rows.corrupted, rows.ids))

    @torch.no_grad()
    def _guided(self, corrupted: Corrupted, ids: torch.Tensor) -> torch.Tensor:
        """The teacher's guided answer: float32 [B, C, h, w]."""
        unet, text_encoder = self.teacher["unet"], self.teacher["text_encoder"]
        empty = self.task.corpus.empty_ids.long()[None]
        with_caption = predict_in_bfloat16(unet, corrupted, text_encoder(ids).last_hidden_state)
        states = text_encoder(empty).last_hidden_state.expand(len(ids), -1, -1)
        without = predict_in_bfloat16(unet, corrupted, states)
        return without + self.guidance_scale * (with_caption - without)
