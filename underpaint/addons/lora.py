"""Reading LoRA files, as diffusers, PEFT and Kohya's scripts write them, into a twin's layout.

Whatever is wrong with a file (cut off, made for another model, of too high a rank, not finite, of a kind that no bank
holds) is an error that names the file and the layer; nothing of it is ever left out in silence.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from underpaint.addons.layout import BANK_DTYPE, Layer, LoraLayout
from underpaint.errors import InvalidArgument, Unsupported

# What a layer is called in a file begins with the network that it belongs to.
_NETWORKS = (
    ("unet", ("base_model.model.unet.", "base_model.model.", "unet.", "lora_unet_", "")),
    ("text_encoder", ("base_model.model.text_encoder.", "text_encoder.", "lora_te1_", "lora_te_")),
)
# The two factors and the scale, by the ends of their keys; the longest first.
_ROLES = (
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    ("_lora.down.weight", "down"),
    ("_lora.up.weight", "up"),
    (".alpha", "alpha"),
)
_OTHER_KINDS = re.compile(r"dora_scale|lora_magnitude|lokr_|hada_|oft_|diff_b|\.diff$|bundle_emb")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, eq=False)
class Lora:
    """One LoRA in the layouts of its base: ``unet`` and ``text_encoder`` are float16 [rank, width], or None.

    The width is the layout's narrow one where that is all that the LoRA changes.

    ``fingerprint`` is a short hash of the file: what is made with another content is something else.
    """

    name: str
    fingerprint: str
    unet: np.ndarray | None
    text_encoder: np.ndarray | None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.unet, self.text_encoder) if part is not None)

    @property
    def rank(self) -> int:
        return max(len(part) for part in (self.unet, self.text_encoder) if part is not None)


@dataclass
class _Factors:
    """What a file says of one layer: ``down`` [r, …], ``up`` [out, r, …], and the scale of their product."""

    down: np.ndarray | None = None
    up: np.ndarray | None = None
    alpha: float | None = None


def read_lora(
    name: str,
    content: bytes,
    layouts: Mapping[str, LoraLayout],
    adapter_config: Mapping[str, Any] | None = None,
) -> Lora:
    """The LoRA in the bytes of a safetensors file.

    Args:
        name: what errors call it.
        layouts: by network, ``unet`` and, where it can be adapted too, ``text_encoder``.
        adapter_config: PEFT's ``adapter_config.json``, where one lies beside the file.

    Raises:
        InvalidArgument: the file is damaged, made for another base, of too high a rank, or not finite.
        Unsupported: it is of a kind that is no LoRA (LoKr, LoHa, DoRA …), or has parts for a network without a twin.
    """
    tensors, metadata = _tensors(name, content)
    _check_base(name, metadata, layouts)
    factors: dict[tuple[str, str], _Factors] = {}
    for key, value in tensors.items():
        network, layer, role = _place(name, key, layouts)
        entry = factors.setdefault((network, layer), _Factors())
        setattr(entry, role, float(value.reshape(-1)[0]) if role == "alpha" else value)
    if not factors:
        raise InvalidArgument.of(f"LoRA {name}", "a file without tensors", "the two factors of one layer or more")
    scaling = _Scaling.of(metadata, adapter_config)
    parts = {
        network: _flat(name, layout, {layer: f for (of, layer), f in factors.items() if of == network}, scaling)
        for network, layout in layouts.items()
    }
    fingerprint = hashlib.sha256(content).hexdigest()[:12]
    return Lora(name, fingerprint, parts.get("unet"), parts.get("text_encoder"))


# The file -------------------------------------------------------------------------------------------------------


def _tensors(name: str, content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors, float32, and metadata of a safetensors file: a length (8 bytes), a JSON header, the numbers."""
    damaged = f"LoRA {name}"
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        data = memoryview(content)[8 + length :]
        tensors = {key: _tensor(damaged, key, entry, data) for key, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument.of(damaged, f"no whole safetensors file ({error})", "a complete one") from None
    return tensors, metadata


def _tensor(damaged: str, key: str, entry: Mapping[str, Any], data: memoryview) -> np.ndarray:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in _DTYPES:
        raise InvalidArgument.of(f"{damaged}: dtype of {key}", dtype, ", ".join(_DTYPES))
    if end > len(data):
        raise InvalidArgument.of(damaged, f"{len(data)} bytes of numbers", f"{end}, as its header says; it is cut off")
    raw = np.frombuffer(data[begin:end], _DTYPES[dtype])
    values = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw.astype(np.float32)
    if not np.isfinite(values).all():
        raise InvalidArgument.of(f"{damaged}: {key}", "numbers that are not finite", "finite numbers")
    return values.reshape(shape)


def _check_base(name: str, metadata: Mapping[str, str], layouts: Mapping[str, LoraLayout]) -> None:
    """Where the file says what it was trained on, that must be what it is to be used with."""
    said, base = metadata.get("underpaint.base"), layouts["unet"].base
    if said is not None and said != base:
        raise InvalidArgument.of(f"LoRA {name}: base model", said, base)


# Names ----------------------------------------------------------------------------------------------------------


def _place(name: str, key: str, layouts: Mapping[str, LoraLayout]) -> tuple[str, str, str]:
    """Which network, layer and role a key stands for."""
    if _OTHER_KINDS.search(key):
        raise Unsupported(f"LoRA {name}: {key} belongs to another kind of adapter; allowed: LoRA, on linear and conv")
    stem, role = next(((key.removesuffix(end), role) for end, role in _ROLES if key.endswith(end)), (key, ""))
    for network, prefixes in _NETWORKS:
        for prefix in prefixes:
            if role and stem.startswith(prefix) and network in layouts:
                layer = _layer(layouts[network], stem.removeprefix(prefix))
                if layer is not None:
                    return network, layer, role
    known = ", ".join(f"{network} of {layout.base}" for network, layout in layouts.items())
    raise InvalidArgument.of(f"LoRA {name}: key", key, f"the factors of a layer that can be adapted: {known}")


def _layer(layout: LoraLayout, said: str) -> str | None:
    """The layer that a file means: with dots, or Kohya's way with underscores instead."""
    said = said.replace(".processor.", ".").removeprefix("text_model.").removeprefix("text_model_")
    if said.endswith("to_out"):  # diffusers' first format
        said += ".0"
    return said if said in layout.by_name else _flattened(layout).get(said)


def _flattened(layout: LoraLayout) -> dict[str, str]:
    return {layer.name.replace(".", "_"): layer.name for layer in layout.layers}


# The numbers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scaling:
    """Alpha as far as it is not among the tensors: PEFT's config, or the copy of it in diffusers' metadata."""

    alpha: float | None = None
    rank_stabilised: bool = False
    patterns: Mapping[str, float] | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, str], adapter_config: Mapping[str, Any] | None) -> _Scaling:
        told: Mapping[str, Any] = adapter_config or {}
        if not told and "lora_adapter_metadata" in metadata:
            raw = json.loads(metadata["lora_adapter_metadata"])
            told = {key.removeprefix("unet."): value for key, value in raw.items() if key.startswith("unet.")}
        alpha = told.get("lora_alpha")
        patterns = told.get("alpha_pattern") or None
        return cls(None if alpha is None else float(alpha), bool(told.get("use_rslora")), patterns)

    def factor(self, layer: str, rank: int, alpha: float | None) -> float:
        """What up · down is multiplied with: alpha / rank, where alpha is said; else 1."""
        if alpha is None and self.patterns is not None:
            alpha = next((float(a) for end, a in self.patterns.items() if layer.endswith(end)), None)
        alpha = self.alpha if alpha is None else alpha
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _flat(name: str, layout: LoraLayout, factors: Mapping[str, _Factors], scaling: _Scaling) -> np.ndarray | None:
    """The factors of a network at their places, float16 [rank, width]; None without any."""
    if not factors:
        return None
    pairs = {each: _pair(name, layout, layout.by_name[each], f, scaling) for each, f in factors.items()}
    flat = np.zeros((max(len(down) for down, _ in pairs.values()), layout.width), np.float32)
    for each, (down, up) in pairs.items():
        begin, layer = layout.offsets[each], layout.by_name[each]
        flat[: len(down), begin : begin + layer.down] = down
        flat[: len(up), begin + layer.down : begin + layer.down + layer.outputs] = up
    half = flat.astype(BANK_DTYPE)
    if not np.isfinite(half).all():
        raise InvalidArgument.of(
            f"LoRA {name}", "factors beyond the range of float16", "smaller ones, or a smaller alpha"
        )
    changed = [layout.layers.index(layout.by_name[each]) for each in pairs]
    return half if max(changed) >= layout.narrow else half[:, : layout.narrow_width].copy()


def _pair(
    name: str, layout: LoraLayout, layer: Layer, factors: _Factors, scaling: _Scaling
) -> tuple[np.ndarray, np.ndarray]:
    """Down [r, kernel · kernel · inputs] and up [r, outputs] of a layer, alpha included."""
    where = f"LoRA {name}: {layer.name}"
    if factors.down is None or factors.up is None:
        raise InvalidArgument.of(where, "one factor", "both, up and down")
    rank = len(factors.down)
    if not 1 <= rank <= layout.max_rank:
        raise InvalidArgument.of(f"{where}: rank", rank, f"1 to {layout.max_rank}")
    window = (layer.inputs, layer.kernel, layer.kernel)
    if factors.down.size != rank * layer.down or (layer.kernel > 1 and factors.down.shape[1:] != window):
        raise _misfit(where, "down", factors.down, [rank, *window], layout)
    if factors.up.size != rank * layer.outputs or factors.up.shape[:2] != (layer.outputs, rank):
        raise _misfit(where, "up", factors.up, [layer.outputs, rank], layout)
    factor = scaling.factor(layer.name, rank, factors.alpha)
    if not math.isfinite(factor):
        raise InvalidArgument.of(f"{where}: alpha", factors.alpha, "a finite number")
    # A convolution's window with its channels last and turned round: a twin adds up what each pixel sends to its
    # neighbours, instead of gathering what each receives.
    down = factors.down.reshape(rank, *window)[:, :, ::-1, ::-1].transpose(0, 2, 3, 1).reshape(rank, layer.down)
    return _balanced(down, factor * factors.up.reshape(layer.outputs, rank).T)


def _balanced(down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product with factors of equal size, so that float16 holds both with all its digits."""
    sizes = np.linalg.norm(down, axis=1, keepdims=True), np.linalg.norm(up, axis=1, keepdims=True)
    empty = (sizes[0] == 0) | (sizes[1] == 0)
    ratio = np.sqrt(np.where(empty, 1, sizes[1]) / np.where(empty, 1, sizes[0]))
    return np.where(empty, 0, down * ratio), np.where(empty, 0, up / ratio)


def _misfit(where: str, role: str, given: np.ndarray, wanted: Iterable[int], layout: LoraLayout) -> InvalidArgument:
    shape, allowed = list(given.shape), list(wanted)
    return InvalidArgument.of(f"{where}: shape of {role}", shape, f"{allowed}; it was not made for {layout.base}")
