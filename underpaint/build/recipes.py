"""Recipes: what a family consists of and how it is to be served, in ``build/families/*.toml``."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from underpaint.errors import InvalidArgument

Recipe = TypeVar("Recipe", bound="VariantRecipe | FamilyRecipe")

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_NAME_ALLOWED = "lower-case letters, digits, . and - (an underscore separates a model's part from its name)"
_FRONT_DOOR = "generate"
KINDS = ("auto", "cpu", "gpu")  # auto: a GPU where the server has one
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class VariantRecipe:
    """One variant: its sampling defaults and limits, and how its UNet is run.

    ``refine_steps`` has the run that the refinement of a cached image is the end of (0: as many as any run): a variant
    of very few steps could not skip a part of them. ``max_rows`` is the batch limit of one UNet call;
    ``unet_instances`` processes run it side by side, each with ``unet_threads`` threads on a CPU; ``unet_timeout_s`` is
    how long a call may take before it counts as lost.
    ``loras``: whether it takes LoRAs, by twins that its export brings; those in use share ``lora_memory_mb`` MiB, and
    one that has not come after ``lora_timeout_s`` never will.
    ``controlnets``: whether it takes ControlNets, between the halves of its UNet that its export brings; up to
    ``controlnets_resident`` of them stay loaded, and one that is not after ``controlnet_timeout_s`` never will be.
    ``tokenizer``: the family whose tokenizer reads its prompts, if not its own. ``text_batch`` and ``vae_batch`` are
    the batch limits of text encoder and autoencoder. ``kind``: where its graphs run, one of `KINDS`.
    ``channels_last``: whether onnxruntime's CUDA convolves in that order (`client/gpu_bench` says what it gives).

    What it is built from, for variants that are not trained here: ``repo_id`` on the hub at ``revision`` (a commit), a
    checkpoint of diffusers' ``pipeline`` class; where another repository has the denoising network's weights, the
    ``network_file`` of ``network_repo_id`` at ``network_revision``. ``precision`` of the network and the text encoders
    and ``vae_precision`` are one of `PRECISIONS`. ``max_sequence_length``: how many tokens the encoder of long prompts
    reads, where the pipeline leaves it open. ``complex_human_instruction``: whether prompts follow the instruction that
    SANA's pipeline puts before them (arXiv 2410.10629, section 3.1). ``scheduler``: what to change of the checkpoint's
    scheduler_config.json.

    In the file, ``recipe`` names another in which the variant is described; what stands beside it differs from that.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    num_inference_steps: int
    max_inference_steps: int
    guidance_scale: float
    max_guidance_scale: float
    max_rows: int
    unet_instances: int = 1
    unet_threads: int = 1
    unet_timeout_s: float = 10.0
    refine_steps: int = 0
    loras: bool = False
    lora_memory_mb: float = 256.0
    lora_timeout_s: float = 60.0
    controlnets: bool = False
    controlnets_resident: int = 4
    controlnet_timeout_s: float = 60.0
    tokenizer: str = ""
    text_batch: int = 32
    vae_batch: int = 8
    kind: str = "auto"
    channels_last: bool = False
    repo_id: str = ""
    revision: str = ""
    pipeline: str = ""
    network_repo_id: str = ""
    network_revision: str = ""
    network_file: str = ""
    precision: str = "float32"
    vae_precision: str = "float32"
    max_sequence_length: int = 0
    complex_human_instruction: bool = False
    scheduler: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._hold("name", bool(_NAME.fullmatch(self.name)) and self.name != _FRONT_DOOR, _NAME_ALLOWED)
        self._hold("sizes", _are_sizes(self.sizes), "one or more [width, height] in pixels")
        steps, guidance = self.max_inference_steps, self.max_guidance_scale
        self._hold("max_inference_steps", steps >= 1, "1 or more")
        self._hold("num_inference_steps", 1 <= self.num_inference_steps <= steps, f"1 to {steps}, max_inference_steps")
        self._hold("refine_steps", 0 <= self.refine_steps <= steps, f"0 to {steps}, max_inference_steps")
        self._hold("max_guidance_scale", 0 <= guidance < math.inf, "a finite number, 0 or more")
        self._hold("guidance_scale", 0 <= self.guidance_scale <= guidance, f"0 to {guidance:g}, max_guidance_scale")
        rows = 2 if guidance > 1 else 1
        self._hold("max_rows", self.max_rows >= rows, f"{rows} or more, what one request takes")
        self._hold("unet_instances", self.unet_instances >= 1, "1 or more")
        self._hold("unet_threads", self.unet_threads >= 1, "1 or more")
        self._hold("text_batch", self.text_batch >= 1, "1 or more")
        self._hold("vae_batch", self.vae_batch >= 1, "1 or more")
        self._hold("kind", self.kind in KINDS, ", ".join(KINDS))
        for each in ("precision", "vae_precision"):
            self._hold(each, getattr(self, each) in PRECISIONS, ", ".join(PRECISIONS))
        self._hold("max_sequence_length", self.max_sequence_length >= 0, "0 or more")
        self._hold(
            "revision", bool(self.revision) == bool(self.repo_id), "a commit of the hub repository, which pins it"
        )
        network = (self.network_repo_id, self.network_revision, self.network_file)
        self._hold(
            "network_file", all(network) or not any(network), "given with its repo_id and revision, or none of it"
        )
        self._hold("lora_memory_mb", 0 < self.lora_memory_mb < math.inf, "a finite number of MiB above 0")
        self._hold("lora_timeout_s", 0 < self.lora_timeout_s < math.inf, "a finite number of seconds above 0")
        self._hold("controlnets_resident", self.controlnets_resident >= 1, "1 or more")
        self._hold(
            "controlnet_timeout_s", 0 < self.controlnet_timeout_s < math.inf, "a finite number of seconds above 0"
        )
        self._hold("unet_timeout_s", 0 < self.unet_timeout_s < math.inf, "a finite number of seconds above 0")

    def _hold(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise InvalidArgument.of(field, getattr(self, field), allowed)


@dataclass(frozen=True)
class FamilyRecipe:
    """A family and which of its variants play the small and the large role, and that of the refiner of cached images.

    ``clip``: whether it brings the embedders that retrieve cached images; ``routing``: whether it brings the router and
    the discriminator that cascades of its small and its large variant need. ``retrieval_model`` and
    ``retrieval_pretrained``: the CLIP of open_clip's that a build makes the embedders of, by its names for both.
    """

    name: str
    small: str
    large: str
    variants: tuple[VariantRecipe, ...]
    clip: bool = False
    refiner: str = ""
    routing: bool = False
    retrieval_model: str = ""
    retrieval_pretrained: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument.of("name", self.name, _NAME_ALLOWED)
        retrieval = (self.retrieval_model, self.retrieval_pretrained)
        if any(retrieval) and not (self.clip and all(retrieval)):
            raise InvalidArgument.of(
                "retrieval_model", self.retrieval_model, "given with retrieval_pretrained and clip"
            )
        names = [v.name for v in self.variants]
        for name in names:
            if names.count(name) > 1:
                raise InvalidArgument.of("variants", f"{name} twice", "each name once")
        for role in ("small", "large", *(["refiner"] if self.refiner else [])):
            if getattr(self, role) not in names:
                raise InvalidArgument.of(
                    role, getattr(self, role), ", ".join(names) or "the name of a [[variants]] table"
                )


def load_recipe(path: Path) -> FamilyRecipe:
    """Read and check a recipe.

    Raises:
        InvalidArgument: there is no such file, it is no TOML, a name is unknown or missing, or a value is not allowed.
    """
    if not path.is_file():
        known = sorted(recipe.stem for recipe in path.parent.glob("*.toml"))
        raise InvalidArgument.of("family", path.stem, ", ".join(known) or f"the name of a file in {path.parent}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidArgument(f"{path.name} is not TOML: {error}") from None
    tables = raw.get("variants", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidArgument(f"{path.name}: variants must be tables, each under a line [[variants]]")
    variants = tuple(_build(VariantRecipe, _with_sizes(_completed(table, path)), path) for table in tables)
    return _build(FamilyRecipe, {**raw, "variants": variants}, path)


def _completed(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A variant's table; where it says ``recipe``, whatever it does not say itself is as in the recipe of that name
    beside it, of the variant with the same name."""
    own = dict(table)
    source, name = own.pop("recipe", None), own.get("name")
    if source is None:
        return own
    other = path.parent / f"{source}.toml"
    raw = tomllib.loads(other.read_text(encoding="utf-8")) if other.is_file() else {}
    found = [each for each in raw.get("variants", []) if each.get("name") == name and "recipe" not in each]
    if not found:
        raise InvalidArgument.of(
            f"{path.name}: {name}: recipe", source, f"a recipe in {path.parent} that describes {name} itself"
        )
    return {**found[0], **own}


def _with_sizes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's lists as tuples; what is no list of lists stays for the check."""
    sizes = raw.get("sizes")
    if not isinstance(sizes, list):
        return dict(raw)
    return {**raw, "sizes": tuple(tuple(size) if isinstance(size, list) else size for size in sizes)}


def _are_sizes(sizes: object) -> bool:
    pairs = sizes if isinstance(sizes, tuple) else ()
    return bool(pairs) and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)
        for pair in pairs
    )


def _build(kind: type[Recipe], raw: Mapping[str, Any], path: Path) -> Recipe:
    where = f"{path.name}: {raw.get('name', kind.__name__)}"
    known = {f.name: f for f in fields(kind)}
    for name, value in raw.items():
        if name not in known:
            raise InvalidArgument.of(f"{where}: key", name, ", ".join(sorted(known)))
        _check_type(f"{where}: {name}", str(known[name].type), value)
    needed = (f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING)
    missing = sorted(name for name in needed if name not in raw)
    if missing:
        raise InvalidArgument(f"{where}: {', '.join(missing)} missing")
    try:
        return kind(**raw)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from None


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "Mapping[str, object]": ((dict,), "a table"),
}


def _check_type(field: str, annotation: str, value: object) -> None:
    """Of what is annotated with a plain type; an integer may stand for a number."""
    types, name = _TYPES.get(annotation, ((type(value),), ""))
    if type(value) not in types:
        raise InvalidArgument.of(field, value, name)
