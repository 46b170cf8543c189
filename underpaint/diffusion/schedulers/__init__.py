"""Schedulers, one a file, configured by diffusers' own ``scheduler_config.json``."""

from underpaint.diffusion.schedulers.base import Scheduler, load_scheduler, scheduler_names

__all__ = ["Scheduler", "load_scheduler", "scheduler_names"]
