"""What a caller is told beside the image: everything that was decided and how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Timings:
    """Milliseconds in each stage.

    In the order in which a request goes through them: ``embed``: its prompt; ``awaited``: a picture of nearly the same
    prompt, until that was in the cache; ``lookup``: there; ``fetch``: of what it starts from; ``admission``: waiting
    for the front door and planning, in between; ``encode``: tokenizer and text encoder; ``queue``: waiting for the
    first UNet call; ``denoise``: first to last step; ``decode``: latents to pixels. ``held``: how much of queue and
    denoise it stood still until LoRAs or ControlNets had been loaded. Under a cascade also ``route``: the router;
    ``judge``: the discriminator; ``other``: a painting whose image is not the one that is given, in all.
    """

    admission: float
    encode: float
    queue: float
    denoise: float
    decode: float
    total: float
    embed: float = 0.0
    lookup: float = 0.0
    fetch: float = 0.0
    awaited: float = 0.0
    route: float = 0.0
    judge: float = 0.0
    other: float = 0.0
    held: float = 0.0


@dataclass(frozen=True)
class Source:
    """The entry of the cache that an image was made from.

    ``similarity`` is the cosine that it was chosen by; ``skip`` counts the steps that did not have to be run;
    ``prompt``, ``variant`` and ``seed`` are what the entry was painted with.
    """

    entry_id: int
    similarity: float
    skip: int
    prompt: str
    variant: str
    seed: int


@dataclass(frozen=True)
class First:
    """The painting that was not good enough: who made it, in how many steps."""

    variant: str
    num_inference_steps: int
    steps_run: int


@dataclass(frozen=True)
class LoraUse:
    """A LoRA that was asked for, and before which step it joined; None where it could not be had."""

    name: str
    scale: float
    joined_at: int | None


@dataclass(frozen=True)
class ControlNetUse:
    """A ControlNet that was asked for, with its scale, and in how many steps it acted."""

    name: str
    scale: float
    steps: int


@dataclass(frozen=True)
class Outcome:
    """The report that comes with every image. Names as in the request.

    ``start`` is ``noise``, ``cached_image``, ``cached_latents`` or ``finished``, and ``source`` what it was; ``miss``
    says why there is none although the policy looks for one (``evidence.Miss``). ``generation``: 0 for an image that
    was painted from noise, else one more than its source's. ``variant`` painted it or, where it was finished, would
    have.

    Under a cascade, ``router_score`` is the chance that the small variant fails at the prompt, and ``confidence`` the
    chance that its image was as told, both as foreseen; None where nobody was asked or no answer came in time.
    ``escalated_from``: the small variant's painting, where it was painted again. ``fallback``: why an image is given
    that nobody vouches for (``policies.Fallback``). ``downgrade``: what was done with less of, so that ``slo_ms`` could
    be kept (``policies.admission.Downgrade``). ``version``: of the family's weights, where a rollout has two.
    """

    request_id: str
    prompt: str
    negative_prompt: str
    policy: str
    variant: str
    start: str
    seed: int
    scheduler: str
    num_inference_steps: int
    steps_run: int
    steps_skipped: int
    guidance_scale: float
    width: int
    height: int
    timings_ms: Timings
    warnings: tuple[str, ...] = ()
    source: Source | None = None
    miss: str | None = None
    generation: int = 0
    router_score: float | None = None
    confidence: float | None = None
    escalated: bool = False
    escalated_from: First | None = None
    fallback: str | None = None
    downgrade: str | None = None
    loras: tuple[LoraUse, ...] = ()
    controlnets: tuple[ControlNetUse, ...] = ()
    version: int = 1

    def to_json(self) -> str:
        return json.dumps(vars(self), default=vars, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Outcome:
        """What :meth:`to_json` wrote. Names that a newer server added are left out."""
        raw = _known(cls, json.loads(text))
        raw["timings_ms"] = Timings(**_known(Timings, raw["timings_ms"]))
        raw["source"] = Source(**_known(Source, raw["source"])) if raw.get("source") else None
        raw["escalated_from"] = First(**_known(First, raw["escalated_from"])) if raw.get("escalated_from") else None
        loras = tuple(LoraUse(**_known(LoraUse, each)) for each in raw.get("loras", ()))
        controlnets = tuple(ControlNetUse(**_known(ControlNetUse, each)) for each in raw.get("controlnets", ()))
        return cls(**{**raw, "warnings": tuple(raw["warnings"]), "loras": loras, "controlnets": controlnets})

    def metadata(self) -> dict[str, Any]:
        """What a PNG should say of itself: enough to paint it again, without the measurements."""
        report = vars(self)
        left_out = ("timings_ms", "warnings", *(name for name in ("loras", "controlnets") if not report[name]))
        return {n: _plain(value) for n, value in report.items() if n not in left_out and value is not None}


def _plain(value: Any) -> Any:
    """What JSON can hold. (``dataclasses.asdict`` would copy what cannot be changed anyway, at ten times the cost.)"""
    if is_dataclass(value):
        return dict(vars(value))
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _known(
    cls: type[Outcome | Timings | Source | First | LoraUse | ControlNetUse], raw: Mapping[str, Any]
) -> dict[str, Any]:
    return {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
