"""The request: one typed class that feeds the client, the command line, the front door and its config.pbtxt.

A field says once what it is called (as diffusers calls it), of which type, and what is allowed. What depends on the
variant that serves the request (its sizes, its limits) is checked where the variant is known: ``deployment``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from typing import Any

import numpy as np

from underpaint.errors import InvalidArgument
from underpaint.wishes import ON_MISSING_LORA, ControlNetWish, LoraWish, parse_controlnets, parse_loras

MAX_PROMPT_CHARACTERS = 4096
MAX_SEED = 2**63 - 1
MAX_DEADLINE_MS = 24 * 60 * 60 * 1000  # a day; much longer ones would not fit into int64 nanoseconds
# From the first to give way to the last: best_effort leaves half of its time to others, premium is late, not refused.
SERVICE_CLASSES = ("best_effort", "standard", "premium")
TENANT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DEFAULT_TENANT = "default"
OUTPUT_FORMATS = ("tensor", "png", "none")
# Whether a request may start from what others left in the cache, and whether it leaves something there itself.
# ``reproducible`` also ignores everything else that changes from one moment to the next, such as the load, when it
# plans: the request alone, with its seed, decides the image. What it paints may be kept, since that changes nothing.
CACHE_MODES = ("readwrite", "read", "write", "off", "reproducible")


def tensor(dtype: str, help: str, default: Any = None) -> Any:
    """A field that travels as an input tensor of Triton ``dtype``, shape [1]."""
    return field(default=default, metadata={"dtype": dtype, "help": help})


def parameter(help: str, default: Any = None) -> Any:
    """A field that travels as a Triton request parameter, because it must pass through ensembles unnoticed."""
    return field(default=default, metadata={"dtype": None, "help": help})


# Integers travel as INT64: Triton would quietly wrap a larger number into an INT32 before anybody could refuse it.
@dataclass(frozen=True)
class GenerateRequest:
    """One image, please. ``None`` leaves the choice to the policy, the variant or, for the seed, to chance."""

    prompt: str = tensor("STRING", "what to paint", "")
    negative_prompt: str = tensor("STRING", "what to keep away from (only with guidance_scale above 1)", "")
    num_inference_steps: int | None = tensor("INT64", "denoising steps")
    guidance_scale: float | None = tensor("FP32", "classifier-free guidance; up to 1 switches it off")
    seed: int | None = tensor("INT64", f"0 to {MAX_SEED}; alone decides the image where nothing is read from the cache")
    width: int | None = tensor("INT64", "pixels")
    height: int | None = tensor("INT64", "pixels")
    scheduler: str | None = tensor("STRING", "ddim, euler, flow_match_euler, dpm_solver_multistep; see the variant")
    variant: str | None = tensor("STRING", "serve with this model, whatever the policy prefers")
    policy: str | None = tensor("STRING", "how to spend as little as possible; see `underpaint policies`")
    cache: str = tensor("STRING", f"start from stored pictures, store this one: {', '.join(CACHE_MODES)}", "readwrite")
    lora: str | None = tensor("STRING", "LoRAs and their scales, NAME:SCALE,… or NAME (1); see `underpaint lora list`")
    on_missing_lora: str | None = tensor(
        "STRING", f"what to do where one cannot be had: {', '.join(ON_MISSING_LORA)} (default: fail)"
    )
    controlnet: str | None = tensor(
        "STRING", "ControlNets, their scales and shares of the steps: NAME:SCALE:START:END,… or NAME (1, all of them)"
    )
    control_image: np.ndarray | None = field(  # uint8 [N, H, W, 3]
        default=None,
        compare=False,
        metadata={"dtype": "UINT8", "dims": [-1, -1, -1, 3], "help": "what ControlNets are told: one for all, or each"},
    )
    output_format: str = tensor("STRING", "tensor, png (base64) or none (only the report)", "tensor")
    # A parameter, so that a gateway can set it: Triton forwards headers as parameters (--http-header-forward-pattern).
    tenant: str = parameter("whose cache to use; nothing is shared between tenants", DEFAULT_TENANT)
    controlnet_stale: bool = parameter("add what ControlNets said a step before, without waiting for them", False)
    guidance_split: bool = parameter("both halves of guidance at once, on two instances, however busy they are", False)
    previews: bool = parameter("whether generate_stream shows the image while it appears", True)
    request_id: str | None = parameter("a name of your own, by which the request can be cancelled")
    deadline_ms: int | None = parameter("give up when the image is not done this many milliseconds after arrival")
    slo_ms: int | None = parameter("a promise to keep: do with less, or refuse, rather than take longer than this")
    service_class: str = parameter(
        f"who gives way first when not every slo_ms can be kept: {', '.join(SERVICE_CLASSES)}", "standard"
    )

    def __post_init__(self) -> None:
        _check_prompt("prompt", self.prompt, required=True)
        _check_prompt("negative_prompt", self.negative_prompt, required=False)
        _check_range("num_inference_steps", self.num_inference_steps, 1, None)
        _check_range("width", self.width, 1, None)
        _check_range("height", self.height, 1, None)
        _check_range("seed", self.seed, 0, MAX_SEED)
        _check_range("deadline_ms", self.deadline_ms, 1, MAX_DEADLINE_MS)
        _check_range("slo_ms", self.slo_ms, 1, MAX_DEADLINE_MS)
        if self.service_class not in SERVICE_CLASSES:
            raise InvalidArgument.of("service_class", self.service_class, ", ".join(SERVICE_CLASSES))
        _check_guidance(self.guidance_scale)
        parse_loras(self.lora or "")
        _check_control_images(self.controlnets, self.control_image)
        if self.on_missing_lora not in (None, *ON_MISSING_LORA):
            raise InvalidArgument.of("on_missing_lora", self.on_missing_lora, ", ".join(ON_MISSING_LORA))
        if self.output_format not in OUTPUT_FORMATS:
            raise InvalidArgument.of("output_format", self.output_format, ", ".join(OUTPUT_FORMATS))
        if self.cache not in CACHE_MODES:
            raise InvalidArgument.of("cache", self.cache, ", ".join(CACHE_MODES))
        check_tenant(self.tenant)
        if self.request_id is not None and not re.fullmatch(r"[\w.:@-]{1,128}", self.request_id):
            raise InvalidArgument.of("request_id", self.request_id, "1 to 128 of letters, digits and . : @ _ -")

    @property
    def reads_cache(self) -> bool:
        return self.cache in ("readwrite", "read")

    @property
    def writes_cache(self) -> bool:
        return self.cache in ("readwrite", "write", "reproducible")

    @property
    def loras(self) -> tuple[LoraWish, ...]:
        return parse_loras(self.lora or "")

    @property
    def controlnets(self) -> tuple[ControlNetWish, ...]:
        return parse_controlnets(self.controlnet or "")

    @property
    def control_images(self) -> tuple[np.ndarray, ...]:
        """One for each ControlNet, uint8 [H, W, 3]."""
        if self.control_image is None:
            return ()
        each = tuple(self.control_image)
        return each if len(each) > 1 else each * len(self.controlnets)

    @property
    def reproducible(self) -> bool:
        """Whether nothing but the request may decide what its image is."""
        return self.cache == "reproducible"

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> GenerateRequest:
        """The request in ``raw``, whose keys are field names.

        Raises:
            InvalidArgument: a name is unknown, or a value has the wrong type or is out of range.
        """
        for name in raw:
            if name not in _FIELDS:
                raise InvalidArgument.of("parameter name", name, ", ".join(_FIELDS))
        return cls(**{name: _typed(_FIELDS[name], value) for name, value in raw.items() if value is not None})


_FIELDS = {f.name: f for f in fields(GenerateRequest)}
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "np.ndarray": np.ndarray}


def input_fields() -> list[Field[Any]]:
    """The fields that travel as input tensors, in order."""
    return [f for f in fields(GenerateRequest) if f.metadata["dtype"] is not None]


def python_type(declared: Field[Any]) -> type:
    """The plain type behind a field's annotation."""
    return _TYPES[str(declared.type).removesuffix(" | None")]


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", np.ndarray: "an array"}


def _typed(declared: Field[Any], value: object) -> Any:
    wanted = python_type(declared)
    if isinstance(value, bytes):
        value = _decode(declared.name, value)
    if wanted is float and type(value) is int:
        with suppress(OverflowError):  # beyond every float
            value = float(value)
    if type(value) is not wanted:
        raise InvalidArgument.of(declared.name, value, _TYPE_NAMES[wanted])
    return value


def _decode(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument.of(name, value, f"UTF-8 text (byte {error.start} is not)") from None


def check_tenant(tenant: object) -> str:
    """The tenant, if it can be one. Raises InvalidArgument."""
    if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
        raise InvalidArgument.of("tenant", tenant, "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit")
    return tenant


def _check_prompt(name: str, value: str, required: bool) -> None:
    if not _encodable(value):
        raise InvalidArgument.of(name, value, "UTF-8 text (half a surrogate pair is not)")
    if required and not value.strip():
        raise InvalidArgument.of(name, value, "a text that is not empty")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise InvalidArgument.of(name, value, f"at most {MAX_PROMPT_CHARACTERS} characters")


def _encodable(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_range(name: str, value: int | None, low: int, high: int | None) -> None:
    if value is not None and (value < low or (high is not None and value > high)):
        raise InvalidArgument.of(name, value, f"{low} to {high}" if high is not None else f"{low} or more")


def _check_control_images(wishes: Sequence[ControlNetWish], given: np.ndarray | None) -> None:
    if not wishes:
        if given is not None:
            raise InvalidArgument.of("control_image", f"{given.dtype} {list(given.shape)}", "none without controlnet")
        return
    counts = "1" if len(wishes) == 1 else f"1 or {len(wishes)}"
    allowed = f"uint8 [{counts}, height, width, 3], what {', '.join(wish.name for wish in wishes)} shall be told"
    if given is None:
        raise InvalidArgument.of("control_image", None, allowed)
    if given.dtype != np.uint8 or given.ndim != 4 or given.shape[3] != 3 or len(given) not in (1, len(wishes)):
        raise InvalidArgument.of("control_image", f"{given.dtype} {list(given.shape)}", allowed)


def _check_guidance(value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise InvalidArgument.of("guidance_scale", value, "a finite number, 0 or more")
