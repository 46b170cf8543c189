"""What is deployed: the variants, what each can make, and which of them plays the small and the large role.

Written as ``deployment.json`` beside the front door's model.py when a model repository is rendered, so that the
repository alone says what it serves.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from underpaint.errors import InvalidArgument
from underpaint.requests import GenerateRequest

FILE_NAME = "deployment.json"
_REPOSITORY = "model_repository"


@dataclass(frozen=True)
class Variant:
    """One servable diffusion model, with its defaults and limits.

    ``sizes`` are (width, height) in pixels; ``prompt_tokens`` counts what the text encoder sees of a prompt, without
    its markers; ``weights`` is a hash of its weights, so that what is cached or calibrated is known to be theirs;
    ``autoencoder``: of its VAE alone, where variants that have the same can hand latents on; ``loras``,
    ``controlnets``: whether it takes any; ``refine_steps``: see ``refinement_steps``, 0 for no others than it has.
    """

    name: str
    num_inference_steps: int
    max_inference_steps: int
    guidance_scale: float
    max_guidance_scale: float
    sizes: tuple[tuple[int, int], ...]
    schedulers: tuple[str, ...]
    prompt_tokens: int
    weights: str = ""
    autoencoder: str = ""
    loras: bool = False
    controlnets: bool = False
    refine_steps: int = 0

    @property
    def refinement_steps(self) -> int:
        """Of the run that the refinement of a cached image is the end of."""
        return self.refine_steps or self.num_inference_steps

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Variant:
        sizes = tuple((int(width), int(height)) for width, height in raw["sizes"])
        return cls(**{**raw, "sizes": sizes, "schedulers": tuple(raw["schedulers"])})


@dataclass(frozen=True)
class Scorer:
    """The router or the discriminator, which foresee how the small variant does.

    ``weights``: a hash of its own weights; ``small``: of the variant's whose pictures it learnt from. ``quantiles``: of
    its scores on captions that it did not learn from, rising, at even shares from 0 to 1.
    """

    weights: str
    small: str = ""
    quantiles: tuple[float, ...] = ()

    def cutoff(self, share: float) -> float:
        """The score below which a share of all requests is, as far as the quantiles tell; between them, a line."""
        place = share * (len(self.quantiles) - 1)
        below = min(int(place), len(self.quantiles) - 2)
        low, high = self.quantiles[below : below + 2]
        return low + (place - below) * (high - low)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Scorer:
        return cls(**{**raw, "quantiles": tuple(raw["quantiles"])})


@dataclass(frozen=True)
class Sampling:
    """How one image is sampled: every choice made, nothing left open."""

    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    seed: int


@dataclass(frozen=True)
class Deployment:
    """The variants by name, and the roles that policies speak of: ``small`` tries first in cascades, ``refiner``
    refines cached images (the small one, unless another is named), ``large`` paints what neither can.

    ``embedder`` is a hash of the embedders' weights; without embedders it is empty, and nothing is ever found in a
    cache. ``router`` and ``discriminator`` are for cascades; without them there are none. ``version``: of the family's
    weights, the number of their directories (see ``releases``).
    """

    family: str
    variants: Mapping[str, Variant]
    small: str
    large: str
    default_policy: str = "vanilla"
    embedder: str = ""
    router: Scorer | None = None
    discriminator: Scorer | None = None
    refiner: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "refiner", self.refiner or self.small)
        for role in ("small", "large", "refiner"):
            if getattr(self, role) not in self.variants:
                raise InvalidArgument.of(f"deployment: {role}", getattr(self, role), ", ".join(self.variants))

    @classmethod
    def load(cls, folder: Path, version: int | None = None) -> Deployment:
        """Read ``deployment.json`` from a model's version directory, or that of a version on trial."""
        raw = json.loads((folder / file_name(version)).read_text())
        variants = {v["name"]: Variant.from_json(v) for v in raw.pop("variants")}
        scorers = {name: Scorer.from_json(raw.pop(name)) for name in ("router", "discriminator") if raw.get(name)}
        return cls(variants=variants, **{**raw, **scorers})

    def to_json(self) -> str:
        """The text of ``deployment.json``."""
        raw = {**asdict(self), "variants": [asdict(v) for v in self.variants.values()]}
        return json.dumps(raw, indent=2) + "\n"

    def variant(self, name: str) -> Variant:
        """The variant of that name, or InvalidArgument."""
        if name not in self.variants:
            raise InvalidArgument.of("variant", name, ", ".join(self.variants))
        return self.variants[name]

    def sampling(self, request: GenerateRequest, variant: Variant, refining: bool = False) -> Sampling:
        """The request's own wishes, filled up with the variant's defaults and held to its limits.

        ``refining``: a cached image, instead of painting a new one."""
        width, height = _size(request, variant)
        default_steps = variant.refinement_steps if refining else variant.num_inference_steps
        steps = request.num_inference_steps or default_steps
        guidance = variant.guidance_scale if request.guidance_scale is None else request.guidance_scale
        scheduler = request.scheduler or variant.schedulers[0]
        if steps > variant.max_inference_steps:
            allowed = f"1 to {variant.max_inference_steps} with {variant.name}"
            raise InvalidArgument.of("num_inference_steps", steps, allowed)
        if guidance > variant.max_guidance_scale:
            allowed = f"0 to {variant.max_guidance_scale:g} with {variant.name}"
            raise InvalidArgument.of("guidance_scale", guidance, allowed)
        if scheduler not in variant.schedulers:
            allowed = f"{', '.join(variant.schedulers)} with {variant.name}"
            raise InvalidArgument.of("scheduler", scheduler, allowed)
        if request.loras and not variant.loras:
            able = ", ".join(name for name, each in self.variants.items() if each.loras)
            allowed = f"none with {variant.name}" + (f"; LoRAs go with variant {able}" if able else "")
            raise InvalidArgument.of("lora", request.lora, allowed)
        self._check_controls(request, variant, width, height)
        seed = draw_seed() if request.seed is None else request.seed
        return Sampling(steps, guidance, scheduler, width, height, seed)

    def _check_controls(self, request: GenerateRequest, variant: Variant, width: int, height: int) -> None:
        if request.controlnets and not variant.controlnets:
            able = ", ".join(name for name, each in self.variants.items() if each.controlnets)
            allowed = f"none with {variant.name}" + (f"; ControlNets go with variant {able}" if able else "")
            raise InvalidArgument.of("controlnet", request.controlnet, allowed)
        for image in request.control_images:
            if image.shape[:2] != (height, width):
                given = f"{image.shape[1]}x{image.shape[0]} pixels"
                raise InvalidArgument.of("control_image", given, f"{width}x{height}, the size of the image")


def file_name(version: int | str | None = None) -> str:
    """Of a deployment: of the one that serves, or of a version on trial beside it."""
    return FILE_NAME if version is None else f"deployment@{version}.json"


def draw_seed() -> int:
    """A seed for a request without one; below 2**32, so that a JavaScript caller can send it back unharmed."""
    return secrets.randbits(32)


def _size(request: GenerateRequest, variant: Variant) -> tuple[int, int]:
    default_width, default_height = variant.sizes[0]
    size = (request.width or default_width, request.height or default_height)
    if size not in variant.sizes:
        allowed = ", ".join(f"{width}x{height}" for width, height in variant.sizes)
        raise InvalidArgument.of("width, height", f"{size[0]}x{size[1]}", f"{allowed} with {variant.name}")
    return size


def default_repository() -> Path:
    """``model_repository`` in the working directory, else in the checkout that this file belongs to."""
    here, checkout = Path.cwd() / _REPOSITORY, Path(__file__).resolve().parents[1] / _REPOSITORY
    return here if here.is_dir() or not checkout.is_dir() else checkout
