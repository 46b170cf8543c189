"""Profiles as they were published: the figures of the papers, so that their systems can be simulated at their scale.

Sources: DiffServe (Ahmad et al., MLSys 2025, arXiv 2411.15381) with its artifact's latencies, deferral and FID; HADIS
(Yang et al., arXiv 2509.00642) with its artifact's latencies, Pareto table and FID; MoDM (ASPLOS '26,
10.1145/3760250.3762220) with its code's latencies. FID is lower for better images.

What is too large to be written down here is read from a folder that holds the artifacts' own files: DiffServe's scores
of single images, from which f(t) follows on its full grid, and HADIS' 726 profiled configurations.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from underpaint.control.curves import Cascade, Deferral, Mix
from underpaint.control.profile import Costs, Latency, Profile, VariantProfile
from underpaint.errors import InvalidArgument, NotFound

BATCHES = (1, 2, 4, 8, 16, 32)
TENTHS = tuple(round(0.1 * each, 1) for each in range(11))
IMAGES_A_PROMPT = 4  # the artifacts' scores are four images a prompt, prompt-major

# DiffServe ------------------------------------------------------------------------------------------------------

_DIFFSERVE = "DiffServe, arXiv 2411.15381; latencies, f(t) and FID of its artifact"
_DISCRIMINATOR_S = 0.020  # what DiffServe's simulator sleeps for a batch
_GRID = tuple(round(0.005 * each, 3) for each in range(201))
_SCORES = {"sd-turbo": "fake_probability_sdturbo.txt", "sdxs": "fake_probability_sdxs.txt"}


@dataclass(frozen=True)
class _Pair:
    """One of DiffServe's cascades; latencies in milliseconds by batch, FID by share painted by the light model."""

    light: str
    heavy: str
    slo_s: float
    light_ms: tuple[int, ...]
    heavy_ms: tuple[int, ...]
    steps: tuple[int, int]
    fid: tuple[float, ...]
    deferral: Mapping[float, float]
    scores: str  # whose scores its f(t) is made of: the third cascade was published with the second one's


_SDXS_DEFERRAL = {0.0: 0.0, 0.005: 0.037, 0.02: 0.115, 0.05: 0.215, 0.1: 0.321, 0.2: 0.497, 0.25: 0.616, 0.3: 0.715}
_SDXS_DEFERRAL |= {0.4: 0.846, 0.5: 0.999, 0.56: 1.0, 1.0: 1.0}
_TURBO_DEFERRAL = {0.0: 0.0, 0.005: 0.143, 0.02: 0.260, 0.05: 0.360, 0.1: 0.449, 0.2: 0.582, 0.25: 0.690, 0.3: 0.788}
_TURBO_DEFERRAL |= {0.4: 0.878, 0.5: 0.993, 0.56: 1.0, 1.0: 1.0}
_SD15_MS = (1780, 2160, 3680, 6790, 12880, 25350)
_PAIRS = {
    "diffserve-1": _Pair(
        light="sd-turbo",
        heavy="sd15",
        slo_s=5,
        light_ms=(100, 150, 220, 410, 770, 1560),
        heavy_ms=_SD15_MS,
        steps=(1, 50),
        fid=(18.55, 17.85, 17.33, 16.98, 16.79, 16.95, 17.26, 17.95, 18.86, 20.17, 22.77),
        deferral=_TURBO_DEFERRAL,
        scores="sd-turbo",
    ),
    "diffserve-2": _Pair(
        light="sdxs",
        heavy="sd15",
        slo_s=5,
        light_ms=(50, 60, 80, 130, 240, 480),
        heavy_ms=_SD15_MS,
        steps=(1, 50),
        fid=(18.55, 17.68, 17.08, 16.97, 17.13, 17.58, 18.21, 19.23, 20.54, 22.34, 24.86),
        deferral=_SDXS_DEFERRAL,
        scores="sdxs",
    ),
    "diffserve-3": _Pair(
        light="sdxl-lightning",
        heavy="sdxl",
        slo_s=15,
        light_ms=(550, 980, 1850, 3580, 7100),
        heavy_ms=(6100, 10650, 20920, 40230, 79110),
        steps=(2, 50),
        fid=(23.31, 23.14, 23.27, 23.67, 24.42, 25.33, 26.34, 27.53, 29.27, 31.01, 33.27),
        deferral=_SDXS_DEFERRAL,
        scores="sdxs",
    ),
}


def _diffserve(name: str, data: Path | None) -> Profile:
    pair = _PAIRS[name]
    fid = pair.fid[::-1]  # from no image by the heavy model to all of them
    return Profile(
        name=name,
        variants=(
            VariantProfile(pair.light, pair.steps[0], _latencies(pair.light_ms), loss=fid[0]),
            VariantProfile(pair.heavy, pair.steps[1], _latencies(pair.heavy_ms), loss=fid[-1]),
        ),
        costs=Costs(discriminator_s=_DISCRIMINATOR_S),
        mixes=(Mix(pair.light, pair.heavy, TENTHS, fid),),
        deferrals=(_deferral(pair, data),),
        loss_is="FID",
        slo_s=pair.slo_s,
        machine="A100-80G",
        source=_DIFFSERVE,
    )


def _latencies(milliseconds: Sequence[int]) -> tuple[Latency, ...]:
    return tuple(Latency(batch, ms / 1000) for batch, ms in zip(BATCHES, milliseconds, strict=False))


def _deferral(pair: _Pair, data: Path | None) -> Deferral:
    """f(t) on DiffServe's grid where the scores are at hand, else the points of it that are written down here."""
    if data is None:
        return Deferral(pair.light, tuple(pair.deferral), tuple(pair.deferral.values()))
    confidences = prompt_confidences(pair.scores, data)
    shares = np.searchsorted(np.sort(confidences), _GRID, side="left") / len(confidences)
    return Deferral(pair.light, _GRID, tuple(float(each) for each in shares))


def prompt_confidences(variant: str, data: Path) -> np.ndarray:
    """Float [prompts]: mean confidence of a prompt's four images, which is what DiffServe's f(t) was made of."""
    return confidences(variant, data).mean(axis=1)


def confidences(variant: str, data: Path) -> np.ndarray:
    """Float [prompts, 4]: DiffServe's discriminator on single images of ``variant``, as P(real)."""
    path = _existing(data / "diffserve" / _SCORES[variant])
    return 1 - np.loadtxt(path).reshape(-1, IMAGES_A_PROMPT)


# HADIS ----------------------------------------------------------------------------------------------------------

_HADIS = "HADIS, arXiv 2509.00642; latencies, Pareto table and FID of its artifact, time compressed tenfold"
_COMPRESSION = 10  # its artifact runs tenfold faster than its models do: the SLO is 6 s instead of 60 s
_SWAP_S = 1.22  # on an L40S, from page-locked memory
_MODELS = {  # seconds an image, steps, FID
    "sdxl-lightning": (0.5, 2, 29.76),
    "sd35-large-turbo": (1.3, 4, 25.23),
    "sd35-medium": (13.0, 50, 20.61),
    "sd35-large": (27.0, 50, 19.95),
}
_NAMES = tuple(_MODELS)
_PARETO: dict[tuple[int, int], str] = {  # "θ τ FID", as shipped
    (2, 3): ".2 .5 19.29, .5 0 19.30, .4 0 19.42, .3 0 19.52, .2 0 19.77, .1 0 20.16",
    (1, 2): ".8 .6 20.50, .8 .4 20.52, .6 .6 20.54, .8 .2 20.55, .7 .4 20.56, .8 .1 20.59, .6 .4 20.62, .7 .2 20.65, "
    ".5 .4 20.72, .6 .2 20.79, .4 .4 20.88, .6 .1 20.93, .5 .2 20.98, .4 .3 21.10, .5 .1 21.20, .4 .2 21.26, "
    ".1 .4 21.52, .4 .1 21.60, .3 .2 21.68, 0 .4 21.79, .1 .3 21.98, .2 .2 22.03, .3 .1 22.16, 0 .3 22.37, "
    ".1 .2 22.45, .2 .1 22.60, 0 .2 22.93, .1 .1 23.18, .2 0 23.45, 0 .1 23.85, .1 0 24.30",
    (0, 1): ".7 .1 24.88, .7 0 24.91, .6 .1 25.00, .6 0 25.08, .5 .1 25.35, .5 0 25.56, .4 .1 25.66, .4 0 25.98, "
    ".3 0 26.54, .2 0 27.43, .1 0 28.51, 0 0 29.75",
}
_HADIS_MIXES = {
    (0, 1): (29.76, 28.63, 27.84, 27.22, 26.64, 26.06, 25.57, 25.16, 25.02, 25.02, 25.23),
    (1, 2): (25.23, 23.85, 22.94, 22.37, 21.79, 21.41, 21.18, 20.98, 20.81, 20.77, 20.61),
    (1, 3): (25.23, 23.96, 23.13, 22.51, 21.93, 21.40, 20.99, 20.63, 20.34, 20.13, 19.95),
    (2, 3): (20.61, 20.26, 20.02, 19.75, 19.48, 19.42, 19.45, 19.44, 19.49, 19.68, 19.95),
}


def _hadis(name: str, data: Path | None) -> Profile:
    return Profile(
        name=name,
        variants=tuple(
            VariantProfile(model, steps, _rounded_latencies(image_s), load_s=_SWAP_S / _COMPRESSION, loss=fid)
            for model, (image_s, steps, fid) in _MODELS.items()
        ),
        costs=Costs(discriminator_s=0.010 / _COMPRESSION),
        cascades=_pareto(),
        mixes=tuple(Mix(_NAMES[a], _NAMES[b], TENTHS, fid) for (a, b), fid in _HADIS_MIXES.items()),
        loss_is="FID",
        slo_s=6,
        machine="L40S",
        source=_HADIS,
    )


def _hadis_all(name: str, data: Path | None) -> Profile:
    """With all 726 configurations instead of those on the Pareto front."""
    if data is None:
        raise InvalidArgument.of("data", None, "the folder with hadis/config_results_hybrid.csv, for this profile")
    return replace(_hadis(name, data), cascades=tuple(read_configurations(data)))


def _rounded_latencies(image_s: float) -> tuple[Latency, ...]:
    """L(b) = 0.9·b·L(1), compressed, and then in tenths of a second as its planner has them."""
    compressed_s = image_s / _COMPRESSION
    return tuple(Latency(b, compressed_s if b == 1 else round(0.9 * b * compressed_s, 1)) for b in BATCHES)


def _pareto() -> tuple[Cascade, ...]:
    rows = []
    for (small, large), text in _PARETO.items():
        for row in text.split(", "):
            direct, deferred, fid = map(float, row.split())
            rows.append(Cascade(_NAMES[small], _NAMES[large], direct, deferred, fid))
    return tuple(rows)


def read_configurations(data: Path) -> list[Cascade]:
    """All configurations that HADIS' authors profiled: six pairs, eleven shares each."""
    with _existing(data / "hadis" / "config_results_hybrid.csv").open(newline="") as file:
        return [
            Cascade(
                _NAMES[int(row["light_model"])],
                _NAMES[int(row["heavy_model"])],
                float(row["router_ratio"]),
                float(row["disc_ratio"]),
                float(row["fid"]),
            )
            for row in csv.DictReader(file)
        ]


def hadis_confidences(variant: str, data: Path) -> np.ndarray:
    """Float [prompts, 4]: HADIS' discriminator on single images of ``variant``, as P(real)."""
    path = _existing(data / "hadis" / f"scores_model_{_NAMES.index(variant)}.txt")
    return np.loadtxt(path, usecols=1).reshape(-1, IMAGES_A_PROMPT)


# MoDM -----------------------------------------------------------------------------------------------------------


def _modm(name: str, data: Path | None) -> Profile:
    large_s, small_s = 91.5, 16.5
    return Profile(
        name=name,
        variants=(
            VariantProfile("sdxl", 50, (Latency(1, small_s),), loss=16.29),
            VariantProfile("sd35-large", 50, (Latency(1, large_s),), loss=6.29),
        ),
        costs=Costs(embedder_s=0.05),
        loss_is="FID",
        slo_s=2 * large_s,
        machine="MI210",
        source="MoDM, 10.1145/3760250.3762220: latencies of its code, FID of its Table 2 (DiffusionDB)",
    )


PUBLISHED: dict[str, Callable[[str, Path | None], Profile]] = {
    **dict.fromkeys(_PAIRS, _diffserve),
    "hadis": _hadis,
    "hadis-726": _hadis_all,
    "modm": _modm,
}


def published(name: str, data: Path | None = None) -> Profile:
    """The published profile of that name, or InvalidArgument; ``data``: the folder with the artifacts' files."""
    if name not in PUBLISHED:
        raise InvalidArgument.of("profile", name, f"a JSON file, or {', '.join(PUBLISHED)}")
    return PUBLISHED[name](name, data)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotFound(f"{path}: no such file; --data names the folder with the artifacts' files")
    return path
