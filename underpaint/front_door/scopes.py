"""Which entries of the cache fit a request: the keys under which they are stored and looked up."""

from __future__ import annotations

import hashlib
from typing import Protocol

from underpaint.cache.scope import ImageScope, LatentsScope
from underpaint.deployment import Deployment, Sampling
from underpaint.evidence import Reuse
from underpaint.requests import GenerateRequest

_LATENTS_DTYPE = "float32"


class Hashes(Protocol):
    """What the files of add-ons hold, see ``addons.hashes``."""

    def lora(self, name: str) -> str: ...

    def controlnet(self, name: str) -> str: ...


def scope_of(
    reuse: Reuse,
    deployment: Deployment,
    variant: str,
    request: GenerateRequest,
    sampling: Sampling,
    add_ons: tuple[str, ...] = (),
) -> str:
    """The scope in which an image, or latents of ``variant``, may be reused for this request.

    ``add_ons``: see the function of that name.
    """
    width, height = sampling.width, sampling.height
    if reuse is Reuse.IMAGE:
        what = (request.tenant, deployment.embedder, width, height, request.negative_prompt, add_ons)
        return ImageScope(*what, version=deployment.version).key()
    return LatentsScope(
        tenant=request.tenant,
        embedder=deployment.embedder,
        weights=deployment.variant(variant).weights,
        scheduler=sampling.scheduler,
        num_inference_steps=sampling.num_inference_steps,
        width=width,
        height=height,
        dtype=_LATENTS_DTYPE,
        guidance_scale=sampling.guidance_scale,
        negative_prompt=request.negative_prompt,
        add_ons=add_ons,
        version=deployment.version,
    ).key()


def add_ons(request: GenerateRequest, hashes: Hashes | None) -> tuple[str, ...]:
    """Every add-on by name, file and strength; a ControlNet also by what it was told. Reads files that it has not read
    before. Without ``hashes`` a name has to stand for a file."""
    controls = zip(request.controlnets, request.control_images, strict=True)
    late = ":stale" if request.controlnet_stale else ""
    return (
        *(f"lora:{wish}{_file(hashes.lora(wish.name) if hashes else '')}" for wish in request.loras),
        *(
            f"controlnet:{wish}:{hashlib.sha256(image.tobytes()).hexdigest()[:16]}{late}"
            f"{_file(hashes.controlnet(wish.name) if hashes else '')}"
            for wish, image in controls
        ),
    )


def _file(digest: str) -> str:
    return f":{digest}" if digest else ""
