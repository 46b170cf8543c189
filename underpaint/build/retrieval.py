"""The pair of towers that retrieval looks with, from open_clip: ``embed_text`` and ``embed_image``; and the tokenizer
that the first reads with, ``embed_tokenizer``, since families read with others (SANA's is Gemma's).

Both give embeddings of unit length, float32 [B, D]. Images come as they are painted, uint8 [B, H, W, 3] of any size,
and are resized inside the graph as open_clip's own preprocessing does it (shortest side, bicubic, centre), so that a
family of several sizes needs one model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from underpaint.build.export import Sizes, export
from underpaint.build.graph import Extent, Graph
from underpaint.build.shapes import VERSION
from underpaint.errors import InvalidArgument, Unavailable, Unsupported
from underpaint.triton.tokenization import EMBED_TOKENIZER

_BICUBIC = -0.5  # the constant of Keys' kernel, as Pillow and antialiasing torch have it
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
# OpenAI's pattern, of which the tokenizers library wants no look-around: contractions, letters, one digit, the rest.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Preprocessing:
    """What open_clip does to an image before its tower sees it: ``side`` in pixels, ``mean`` and ``std`` by channel."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, visual: nn.Module) -> Preprocessing:
        """Raises Unsupported for what is not square, or resized in another way."""
        raw: dict[str, Any] = dict(visual.preprocess_cfg)
        size = raw["size"] if isinstance(raw["size"], (tuple, list)) else (raw["size"],) * 2
        way = (raw.get("interpolation", "bicubic"), raw.get("resize_mode", "shortest"))
        if size[0] != size[1] or way != ("bicubic", "shortest"):
            raise Unsupported(
                f"an image tower with {size[0]}x{size[1]}, {', '.join(way)}; only square, bicubic, shortest"
            )
        return cls(int(size[0]), tuple(raw["mean"]), tuple(raw["std"]))


class TextTower(Graph):
    """``input_ids`` int32 [B, T] to ``embedding`` float32 [B, D]."""

    outputs: ClassVar[tuple[str, ...]] = ("embedding",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.length, self.words = int(model.context_length), int(model.vocab_size)

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        ids = torch.randint(1, self.words - 2, (extent.batch, self.length), dtype=torch.int32)
        ids[:, -3] = self.words - 1  # the end of the text, which the tower reads its embedding from
        return {"input_ids": ids}

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return _unit(self.weights.encode_text(input_ids.long()))


class ImageTower(Graph):
    """``image`` uint8 [B, H, W, 3] to ``embedding`` float32 [B, D]."""

    outputs: ClassVar[tuple[str, ...]] = ("embedding",)
    free: ClassVar[Mapping[str, tuple[int, int]]] = {"image": (1, 2)}

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.preprocessing = Preprocessing.of(model.visual)
        self.register_buffer("mean", torch.tensor(self.preprocessing.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocessing.std)[:, None, None], persistent=False)

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        return {"image": torch.randint(0, 256, (extent.batch, extent.height, extent.width, 3), dtype=torch.uint8)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = self._resized(image.float()).clamp(0, 255).round() / 255  # whole numbers, as Pillow's
        normalised = ((pixels - self.mean) / self.std).to(self.dtype)
        return _unit(self.weights.encode_image(normalised))

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] to [B, 3, S, S]: the shortest side becomes S, and of the longer one the centre is kept."""
        rows, columns = torch.ones_like(image[0, :, 0, 0]), torch.ones_like(image[0, 0, :, 0])
        shortest = torch.minimum(rows.sum(), columns.sum())
        down = _bicubic(rows, shortest, self.preprocessing.side)
        across = _bicubic(columns, shortest, self.preprocessing.side)
        return down @ image.permute(0, 3, 1, 2) @ across.T


def _bicubic(ones: torch.Tensor, shortest: torch.Tensor, side: int) -> torch.Tensor:
    """Weights [S, N] that make S samples of the middle ``shortest`` of N pixels, with antialiasing where they shrink.

    ``ones`` [N] stands for the pixels, since their number is not known before the graph runs.
    """
    middles = ones.cumsum(0) - 0.5
    step = shortest / side
    wanted = (ones.sum() - shortest) / 2 + (torch.arange(side, device=ones.device) + 0.5) * step
    distance = ((middles - wanted[:, None]) / step.clamp(min=1)).abs()
    near = ((_BICUBIC + 2) * distance - (_BICUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _BICUBIC - 4 * _BICUBIC
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    return weights / weights.sum(1, keepdim=True)


def _unit(embedding: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(embedding.float(), dim=-1)


def load(model: str, pretrained: str) -> nn.Module:
    """An open_clip model in evaluation mode, ``pretrained`` a tag of open_clip's or the path of a file.

    Raises:
        Unsupported: open_clip is not installed.
        InvalidArgument: it has no such model, or not with these weights.
        Unavailable: the weights could not be fetched.
    """
    try:
        open_clip = _open_clip()
    except ModuleNotFoundError as error:
        raise Unsupported(f"no {error.name} here: pip install 'underpaint[retrieval]'") from None
    if model not in open_clip.list_models():
        raise InvalidArgument.of("retrieval: model", model, "a name that open_clip.list_models() has, such as ViT-L-14")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise InvalidArgument.of("retrieval: pretrained", pretrained, f"{', '.join(tags)} or a file")
    try:
        loaded: nn.Module = open_clip.create_model(model, pretrained=pretrained)
    except (RuntimeError, OSError) as error:
        why = " ".join(str(error).split()).partition(". ")[0]
        raise Unavailable(f"{model} {pretrained} could not be fetched; try again, or name a file: {why}") from None
    return loaded.eval()


def _open_clip() -> Any:
    """open_clip imports torchvision, whose operators beside a torch of another build are not there to be imported; it
    only asks for the names of two."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        try:
            library.define(schema)
        except RuntimeError:  # they are there, after all
            break
    import open_clip

    return open_clip


def build_towers(model: nn.Module, repository: Path, sizes: tuple[tuple[int, int], ...]) -> Mapping[str, float | None]:
    """Export both towers as ``embed_text`` and ``embed_image``; the largest difference of each to torch.

    ``sizes``: of the family's images, in pixels, to compare with; the image tower takes any.
    """
    any_size = Sizes((*sizes, *sizes) if len(sizes) == 1 else sizes, pixels=16)
    text, image = TextTower(model), ImageTower(model)
    parities = {}
    for name, graph in (("embed_text", text), ("embed_image", image)):
        folder = repository / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        parities[name] = export(graph, folder, any_size, tokens=0)
        (folder / "config.json").write_text(json.dumps(_facts(graph), indent=2) + "\n")
    return parities


def _facts(graph: TextTower | ImageTower) -> dict[str, Any]:
    """What the configs are rendered from."""
    with torch.no_grad():
        dimensions = graph(*graph.examples(Extent(64, 64)).values()).shape[-1]
    if isinstance(graph, TextTower):
        return {"projection_dim": dimensions, "max_position_embeddings": graph.length}
    return {"projection_dim": dimensions, "image_size": None}


def write_tokenizer(model: str, repository: Path) -> None:
    """Write ``embed_tokenizer``'s own, which cuts and pads as the model's text tower reads.

    Raises Unsupported for a model that does not read as CLIP does.
    """
    theirs = _open_clip().get_tokenizer(model)
    if not hasattr(theirs, "bpe_ranks"):
        raise Unsupported(
            f"{model} reads with a {type(theirs).__name__}; only models with CLIP's tokenizer are embedded"
        )
    folder = repository / EMBED_TOKENIZER / str(VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(list(theirs.bpe_ranks), theirs.context_length).save(str(folder / "tokenizer.json"))


def tokenizer(merges: list[tuple[str, str]], length: int) -> Tokenizer:
    """CLIP's tokenizer for the tokenizers library, from its merges (``open_clip``'s vocabulary file, in order)."""
    alphabet = list(_bytes_to_unicode().values())
    words = [*alphabet, *(f"{each}</w>" for each in alphabet), *("".join(pair) for pair in merges), _BEGIN, _END]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=_END))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(_regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    begin, end = (_BEGIN, vocabulary[_BEGIN]), (_END, vocabulary[_END])
    made.post_processor = processors.TemplateProcessing(single=f"{_BEGIN} $A {_END}", special_tokens=[begin, end])
    made.enable_truncation(length)
    made.enable_padding(length=length, pad_id=0, pad_token="!")
    return made


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


def _bytes_to_unicode() -> dict[int, str]:
    """A printable character for each byte, as GPT-2's byte-level vocabulary has them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
