"""The instruments themselves, measured: does the judge read what is there, does the CLIP find what belongs together?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from underpaint.bench.judging.quality import Embedder, read_all
from underpaint.build.tiny.edits import edit, placed_anew
from underpaint.build.tiny.judge import Pictures, read
from underpaint.build.tiny.scenes import Scene, caption, render

_BATCH = 32


@dataclass(frozen=True)
class JudgeReport:
    """Shares: pictures read without any fault, and decoded noise that is rightly called unreadable.

    Where variants have different autoencoders, the figure of the worst of them counts.
    """

    renders: float
    reconstructions: float
    noise_unreadable: float


@dataclass(frozen=True)
class ClipReport:
    """``top1``: by the number of pictures to choose from, the share of captions whose nearest is their own.

    ``order_agreement``: of a caption and two pictures of its scene with attributes changed, how often the picture with
    fewer changes is the nearer one. By chance .5.
    """

    top1: dict[str, float]
    order_agreement: float


class Autoencoder:
    """Encoder and decoder of a variant, in sessions of their own."""

    def __init__(self, repository: Path, variant: str) -> None:
        self._encoder, self._decoder = (
            ort.InferenceSession(
                str(repository / f"{variant}_{part}" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
            )
            for part in ("vae_encoder", "vae_decoder")
        )

    def reconstruct(self, pictures: Pictures) -> Pictures:
        starts = range(0, len(pictures), _BATCH)
        return np.concatenate([self._there_and_back(pictures[start : start + _BATCH]) for start in starts])

    def decode_noise(self, count: int, seed: int) -> Pictures:
        """What stands at the end of a denoiser that has learnt nothing."""
        shape = [size if isinstance(size, int) else 0 for size in self._decoder.get_inputs()[0].shape[1:]]
        noise = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
        return np.concatenate([self._decode(noise[start : start + _BATCH]) for start in range(0, count, _BATCH)])

    def _there_and_back(self, pictures: Pictures) -> Pictures:
        return self._decode(self._encoder.run(["latents"], {"image": pictures})[0])

    def _decode(self, latents: np.ndarray) -> Pictures:
        pictures: Pictures = self._decoder.run(["image"], {"latents": latents})[0]
        return pictures


def measure_judge(autoencoders: dict[str, Autoencoder], scenes: list[Scene], seed: int) -> JudgeReport:
    pictures = draw(scenes)
    reconstructions = [
        _all_right(autoencoder.reconstruct(pictures), scenes, f"reconstructions of {name}")
        for name, autoencoder in autoencoders.items()
    ]
    unreadable = [
        float(np.mean([not one.readable for one in read(autoencoder.decode_noise(len(scenes), seed))]))
        for autoencoder in autoencoders.values()
    ]
    return JudgeReport(_all_right(pictures, scenes, "renders"), min(reconstructions), min(unreadable))


def measure_clip(clip: Embedder, scenes: list[Scene], sizes: tuple[int, ...] = (256, 1024)) -> ClipReport:
    texts = clip.texts([caption(scene, way) for way, scene in enumerate(scenes)])
    similarities = texts @ clip.images(draw(scenes)).T
    top1 = {str(size): _top1(similarities, size) for size in sizes if size <= len(scenes)}
    return ClipReport(top1, order_agreement(clip, texts[: min(sizes)], scenes[: min(sizes)]))


def order_agreement(clip: Embedder, texts: np.ndarray, scenes: list[Scene], most_edits: int = 4) -> float:
    """``texts`` [N, D] are the embedded captions of the scenes. See ``ClipReport``."""
    rng = random.Random("order agreement")
    edited = [[_edited(rng, scene, count) for scene in scenes] for count in range(1, most_edits + 1)]
    nearness = np.stack([np.einsum("nd,nd->n", texts, clip.images(draw(each))) for each in edited])
    pairs = [(few, many) for few in range(most_edits) for many in range(few + 1, most_edits)]
    return float(np.mean([nearness[few] > nearness[many] for few, many in pairs]))


def _edited(rng: random.Random, scene: Scene, count: int) -> Scene:
    while (edited := edit(rng, scene, count)) is None:
        pass
    return placed_anew(rng, edited)


def draw(scenes: list[Scene]) -> Pictures:
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def _all_right(pictures: Pictures, scenes: list[Scene], name: str) -> float:
    return float(np.mean([verdict.all_right for verdict in read_all(pictures, scenes, name)]))


def _top1(similarities: np.ndarray, size: int) -> float:
    """The mean over as many galleries of ``size`` scenes as there are."""
    starts = range(0, len(similarities) - size + 1, size)
    blocks = [similarities[start : start + size, start : start + size] for start in starts]
    return float(np.mean([block.argmax(axis=1) == np.arange(size) for block in blocks]))
