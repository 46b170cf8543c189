"""Who may be given what: an entry is matched inside its scope and nowhere else.

A scope is everything that must be equal for a start to be valid, beginning with the tenant: latency alone leaks other
people's prompts (arXiv 2508.20424). It travels as a key, ``<tenant>/<16 hex digits>``: the digits are the beginning of
the SHA-256 of the scope in canonical JSON, so that keys can be compared and logged without telling negative prompts.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache

from underpaint.errors import InvalidArgument
from underpaint.requests import TENANT, check_tenant

_KEY = re.compile(rf"({TENANT})/[0-9a-f]{{16}}")


@dataclass(frozen=True)
class ImageScope:
    """Where a finished image may be reused, by whatever variant.

    ``embedder`` is the hash of the pair of towers that made the vectors. ``width`` and ``height`` count pixels.
    ``add_ons`` name LoRAs and ControlNets with their hashes and strengths; their order does not matter. ``version``:
    of the family, so that what one on trial has painted is not passed on by another.
    """

    tenant: str
    embedder: str
    width: int
    height: int
    negative_prompt: str = ""
    add_ons: tuple[str, ...] = ()
    version: int = 1

    def key(self) -> str:
        """Raises InvalidArgument for a tenant that cannot be one."""
        return _key("image", self)


@dataclass(frozen=True)
class LatentsScope:
    """Where a half-denoised latent may be resumed: the same weights on the same trajectory.

    ``weights`` is the hash of the variant's UNet and VAE, ``dtype`` that of the latents (``float32``).
    """

    tenant: str
    embedder: str
    weights: str
    scheduler: str
    num_inference_steps: int
    width: int
    height: int
    dtype: str
    guidance_scale: float
    negative_prompt: str = ""
    add_ons: tuple[str, ...] = ()
    version: int = 1

    def key(self) -> str:
        """Raises InvalidArgument for a tenant that cannot be one."""
        return _key("latents", self)


def tenant_of(key: object) -> str:
    """The tenant that a scope key belongs to. Raises InvalidArgument for what is no key."""
    matched = _KEY.fullmatch(key) if isinstance(key, str) else None
    if matched is None:
        raise InvalidArgument.of("scope", key, "<tenant>/<16 hex digits>, as ImageScope.key() and LatentsScope.key()")
    return matched.group(1)


@lru_cache(maxsize=1024)  # most requests are of a few scopes, and each needs its key twice
def _key(kind: str, scope: ImageScope | LatentsScope) -> str:
    """``kind`` keeps an image scope and a latents scope of equal fields apart."""
    fields = {**vars(scope), "kind": kind, "add_ons": sorted(scope.add_ons)}
    if isinstance(scope, LatentsScope):
        fields["guidance_scale"] = float(scope.guidance_scale)  # 7 and 7.0 are one guidance
    if scope.version == 1:
        del fields["version"]  # keys from before there were versions stay what they are
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{check_tenant(scope.tenant)}/{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"
