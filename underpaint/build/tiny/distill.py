"""Distillation: one forward learns to land where two steps of the teacher do, each of two forwards under guidance.

The steps are those of progressive distillation (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2), and guidance goes
in with them, for one fixed scale (Meng et al. 2023, arXiv:2210.03142): four forwards become one. Most rows are at the
levels at which the student will be sampled; the others lie between, so that it bears other numbers of steps as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from underpaint.build.tiny.train_variant import Corrupted, Drawn, VariantTask, predict_in_bfloat16

BETWEEN_SHARE = 0.2  # of rows at levels between those of the student's steps


@dataclass(frozen=True)
class Level:
    """x = signal · x0 + noise · ε, at a timestep; float32 [B, 1, 1, 1] and [B]."""

    timestep: torch.Tensor
    signal: torch.Tensor
    noise: torch.Tensor


class StepDistillation:
    """Trains the networks of `task` to paint in `steps` steps as `teacher`, modules like them, does in twice as many.

    Both predict v.
    """

    def __init__(self, task: VariantTask, teacher: nn.ModuleDict, guidance_scale: float, steps: int) -> None:
        assert task.alphas_cumprod is not None, "only v-prediction is distilled"
        self.task, self.guidance_scale, self.steps = task, guidance_scale, steps
        self.modules = task.modules
        self.teacher = teacher.requires_grad_(False)
        self.alphas_cumprod = task.alphas_cumprod

    def loss(self, step: int) -> torch.Tensor:
        drawn = self.task.draw_clean()
        start = self._starts(len(drawn.latents))
        begin, middle, end = (self._level(start - half) for half in range(3))
        x = begin.signal * drawn.latents + begin.noise * drawn.noise
        states = self.task.text_encoder(drawn.ids).last_hidden_state
        predicted = predict_in_bfloat16(self.task.unet, Corrupted(x, x, begin.timestep), states)
        return F.mse_loss(predicted, self._target(x, drawn, begin, middle, end))

    @torch.no_grad()
    def _target(self, x: torch.Tensor, drawn: Drawn, begin: Level, middle: Level, end: Level) -> torch.Tensor:
        """The v with which one DDIM step from `begin` to `end` lands where the teacher's two steps do."""
        landed = self._teacher_step(self._teacher_step(x, drawn.ids, begin, middle), drawn.ids, middle, end)
        ratio = end.noise / begin.noise
        clean = (landed - ratio * x) / (end.signal - ratio * begin.signal)
        return (begin.signal * x - clean) / begin.noise

    def _teacher_step(self, x: torch.Tensor, ids: torch.Tensor, start: Level, end: Level) -> torch.Tensor:
        """DDIM, deterministic, under guidance."""
        unet, text_encoder = self.teacher["unet"], self.teacher["text_encoder"]
        rows = Corrupted(x, x, start.timestep)
        with_caption = predict_in_bfloat16(unet, rows, text_encoder(ids).last_hidden_state)
        empty = text_encoder(self.task.corpus.empty_ids.long()[None]).last_hidden_state.expand(len(ids), -1, -1)
        without = predict_in_bfloat16(unet, rows, empty)
        v = without + self.guidance_scale * (with_caption - without)
        clean, noise = start.signal * x - start.noise * v, start.noise * x + start.signal * v
        return end.signal * clean + end.noise * noise

    def _starts(self, count: int) -> torch.Tensor:
        """Where each row's step begins, in halves of a step above the end: 2·steps is pure noise."""
        whole = 2 * torch.randint(1, self.steps + 1, (count,))
        between = torch.rand(count) < BETWEEN_SHARE
        return torch.where(between, whole - 1, whole)

    def _level(self, halves: torch.Tensor) -> Level:
        """As DDIM's trailing timesteps have it; the end, and beyond it, is clean."""
        timesteps = (len(self.alphas_cumprod) * halves / (2 * self.steps)).round().long() - 1
        clean = timesteps < 0
        alphas = torch.where(clean, 1.0, self.alphas_cumprod[timesteps.clamp_min(0)]).view(-1, 1, 1, 1)
        return Level(timesteps.clamp_min(0).float(), alphas.sqrt(), (1 - alphas).sqrt())
