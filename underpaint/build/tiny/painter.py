"""Painting with exported graphs, as the server would but without one: for labels, which take thousands of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from underpaint.diffusion import prediction
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Answer, Denoiser
from underpaint.diffusion.orders import Canvas, Order, begin
from underpaint.diffusion.schedulers import load_scheduler

SIDE = 64
BATCH = 32


class Painter:
    """One variant of a model repository, in sessions of `threads` threads."""

    def __init__(self, repository: Path, family: str, variant: str, threads: int = 1) -> None:
        folder = repository / f"{variant}_denoiser" / "1" / "scheduler_config.json"
        scheduler = load_scheduler(json.loads(folder.read_text()))
        self._schedulers = {scheduler.name: scheduler}
        self._scheduler = scheduler.name
        self._tokenizer = Tokenizer.from_file(str(repository / f"{family}_tokenizer" / "1" / "tokenizer.json"))
        self._text, self._unet, self._decoder = (
            session(repository / f"{variant}_{part}" / "1" / "model.onnx", threads)
            for part in ("text_encoder", "unet", "vae_decoder")
        )
        channels, side = self._unet.get_inputs()[0].shape[1:3]
        self._canvas = Canvas(channels, SIDE // side, ((SIDE, SIDE),))
        self._denoiser = Denoiser(self._predict, prediction.by_name(scheduler.prediction_type))

    def paint(
        self, captions: Sequence[str], seeds: Sequence[int], num_inference_steps: int, guidance_scale: float
    ) -> np.ndarray:
        """Pictures uint8 [N, 64, 64, 3]; each is that of the server for its caption and seed."""
        starts = range(0, len(captions), BATCH)
        batches = [(captions[start : start + BATCH], seeds[start : start + BATCH]) for start in starts]
        return np.concatenate([self._paint(*batch, num_inference_steps, guidance_scale) for batch in batches])

    def _paint(self, captions: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> np.ndarray:
        told, untold = self._hear(captions), self._hear([""])[0]
        trajectories = [
            begin(
                Order(Conditioning(embeds), Conditioning(untold), seed, steps, guidance, self._scheduler, SIDE, SIDE),
                self._canvas,
                self._schedulers,
            )
            for embeds, seed in zip(told, seeds, strict=True)
        ]
        for _ in range(steps):
            self._denoiser.advance(trajectories)
        latents = np.stack([trajectory.sample for trajectory in trajectories])
        return _only(self._decoder.run(["image"], {"latents": latents}))

    def _hear(self, captions: Sequence[str]) -> np.ndarray:
        """float32 [N, 24, D]."""
        ids = np.array([encoding.ids for encoding in self._tokenizer.encode_batch(list(captions))], np.int32)
        return _only(self._text.run(["last_hidden_state"], {"input_ids": ids}))

    def _predict(self, sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning) -> Answer:
        inputs = {"sample": sample, "timestep": timestep, **conditioning.inputs()}
        predicted = _only(self._unet.run(["noise_pred"], inputs))
        return lambda: predicted


def session(graph: Path, threads: int = 1) -> ort.InferenceSession:
    """A graph on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _only(outputs: Sequence[Any]) -> np.ndarray:
    (output,) = outputs
    array: np.ndarray = output
    return array
