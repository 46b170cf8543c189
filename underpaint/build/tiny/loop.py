"""The training loop: a budget of minutes or steps, a learning rate that always decays to zero, and
checkpoints from which a run goes on exactly as if it had not stopped.

A task says what one step's loss is; the loop owns optimiser, average, schedule and progress. Randomness
is derived from (seed, step), never carried along, so a resumed step sees what it would have seen.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from underpaint.build.tiny import checkpoints

log = logging.getLogger(__name__)


class Task(Protocol):
    """What is trained: the modules whose parameters move, and the loss of one step."""

    modules: nn.ModuleDict

    def loss(self, step: int) -> torch.Tensor:
        """The scalar loss at a step; random draws come from torch's default generator, seeded by step."""


@dataclass(frozen=True)
class Budget:
    """How long to train: whichever of the two comes first. Training time only; pauses do not count."""

    minutes: float = math.inf
    steps: int | None = None

    def progress(self, step: int, elapsed_s: float) -> float:
        """The share of the budget that is spent, from 0 to 1 and beyond."""
        by_steps = step / self.steps if self.steps else 0.0
        return max(by_steps, elapsed_s / (60 * self.minutes))


@dataclass(frozen=True)
class Recipe:
    """How to train. `decay_share` is the last part of the budget, in which the rate falls to zero."""

    budget: Budget
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_share: float = 0.4
    average_decay: float = 0.999
    clip_norm: float = 1.0
    seed: int = 0
    checkpoint_every_s: float = 150.0
    log_every_s: float = 30.0

    def rate(self, step: int, progress: float) -> float:
        """Linear warm-up, constant, then half a cosine to zero."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        into_decay = min(1.0, max(0.0, (progress - 1 + self.decay_share) / self.decay_share))
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * into_decay))


@dataclass
class Progress:
    """Where a run stands; `recent_loss` is an exponential mean over some hundred steps."""

    step: int = 0
    elapsed_s: float = 0.0
    recent_loss: float = math.nan

    def advance(self, loss: float, seconds: float) -> None:
        self.step += 1
        self.elapsed_s += seconds
        fresh = math.isnan(self.recent_loss)
        self.recent_loss = loss if fresh else 0.99 * self.recent_loss + 0.01 * loss


@dataclass(frozen=True)
class Trained:
    """The outcome: averaged weights (what is exported), and where the run ended."""

    average: nn.ModuleDict
    progress: Progress


def train(task: Task, recipe: Recipe, checkpoint: Path, fresh: bool = False) -> Trained:
    """Train until the budget is spent, going on from the checkpoint unless `fresh`."""
    average = copy.deepcopy(task.modules).requires_grad_(False)
    optimiser = _optimiser(task.modules, recipe)
    progress = Progress()
    saved = None if fresh else checkpoints.load(checkpoint)
    if saved is not None:
        progress = _restore(saved, task.modules, average, optimiser)
        log.info("%s: resumed at step %d", checkpoint.stem, progress.step)
    bar = tqdm(desc=checkpoint.stem, initial=progress.step, disable=not sys.stderr.isatty(), unit="step")
    saved_at = logged_at = time.monotonic()
    while (share := recipe.budget.progress(progress.step, progress.elapsed_s)) < 1:
        began = time.monotonic()
        loss = _step(task, recipe, optimiser, average, progress.step, share)
        now = time.monotonic()
        progress.advance(loss, now - began)
        bar.update()
        if now - logged_at >= recipe.log_every_s:
            logged_at = now
            _report(checkpoint.stem, progress, share, bar)
        if now - saved_at >= recipe.checkpoint_every_s:
            saved_at = now
            checkpoints.save(checkpoint, _state(task.modules, average, optimiser, progress))
    bar.close()
    checkpoints.save(checkpoint, _state(task.modules, average, optimiser, progress))
    return Trained(average, progress)


def _step(
    task: Task, recipe: Recipe, optimiser: torch.optim.Optimizer, average: nn.ModuleDict, step: int, share: float
) -> float:
    torch.manual_seed(recipe.seed * 1_000_003 + step)
    for group in optimiser.param_groups:
        group["lr"] = recipe.rate(step, share)
    loss = task.loss(step)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(task.modules.parameters(), recipe.clip_norm)
    optimiser.step()
    _update_average(average, task.modules, recipe.average_decay, step)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss at step {step} is {value}; resume with a lower learning rate")
    return value


@torch.no_grad()
def _update_average(average: nn.ModuleDict, modules: nn.ModuleDict, decay: float, step: int) -> None:
    """Exponential mean of the weights, short at first so that it forgets the random start."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(modules.parameters()), weight)


def _optimiser(modules: nn.ModuleDict, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases and norms (one axis) are not decayed."""
    parameters = list(modules.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.99), foreach=True)


def _report(name: str, progress: Progress, share: float, bar: Any) -> None:
    bar.set_postfix(loss=f"{progress.recent_loss:.4f}")
    if bar.disable:
        log.info(
            "%s: step %d, %.1f min (%.0f%%), loss %.4f, %.2f steps/s",
            name, progress.step, progress.elapsed_s / 60, 100 * share, progress.recent_loss,
            progress.step / progress.elapsed_s,
        )  # fmt: skip


def _state(
    modules: nn.ModuleDict, average: nn.ModuleDict, optimiser: torch.optim.Optimizer, progress: Progress
) -> dict[str, Any]:
    return {
        "modules": modules.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": vars(progress).copy(),
    }


def _restore(
    saved: dict[str, Any], modules: nn.ModuleDict, average: nn.ModuleDict, optimiser: torch.optim.Optimizer
) -> Progress:
    modules.load_state_dict(saved["modules"])
    average.load_state_dict(saved["average"])
    optimiser.load_state_dict(saved["optimiser"])
    return Progress(**saved["progress"])
