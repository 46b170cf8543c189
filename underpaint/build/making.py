"""One component of a build: exported, unless it was made before from just the same; and the embedders likewise."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from underpaint import __version__
from underpaint.build.autoencoders import DecoderGraph, EncoderGraph
from underpaint.build.checkpoint import Checkpoint
from underpaint.build.export import Sizes, export
from underpaint.build.graph import Graph
from underpaint.build.graph_fusions import NONE, Rewrites, rewrites_for
from underpaint.build.lora_twin import write_twins
from underpaint.build.networks import network_class
from underpaint.build.plan import Component, Plan, pixels_of_a_latent
from underpaint.build.recipes import VariantRecipe
from underpaint.build.shapes import VERSION
from underpaint.build.signatures import Signature
from underpaint.build.text import text_graph
from underpaint.triton.tokenization import EMBED_TOKENIZER

MAX_LORA_RANK = 128
RECEIPT = "build.json"  # beside a component's graph: what it was made from, and how well
_EMBEDDERS = ("embed_text", "embed_image")


@dataclass(frozen=True)
class Receipt:
    """What was made: ``key`` is a hash of what from, ``parity`` the largest difference to torch, if it was compared."""

    key: str
    parity: float | None
    seconds: float

    @property
    def verdict(self) -> str:
        return (
            "not compared with torch: that takes a GPU, or more memory"
            if self.parity is None
            else f"parity {self.parity:.1e}"
        )

    @classmethod
    def read(cls, folder: Path) -> Receipt | None:
        path = folder / RECEIPT
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    def write(self, folder: Path) -> None:
        (folder / RECEIPT).write_text(json.dumps(self.__dict__, indent=1) + "\n")


def made(plan: Plan, component: Component, repository: Path, stage: Path, fused: bool) -> str:
    """Make one of the components, unless it is there, from before or from the last build; returns how that went."""
    checkpoint = plan.checkpoints[component.variant.name]
    key = _key(component, checkpoint, fused)
    folder = stage / component.name / str(VERSION)
    earlier = Receipt.read(folder)
    if earlier is not None and earlier.key == key:
        return f"{component.name}: was finished, {earlier.verdict}"
    for published in sorted((repository / component.name).glob("[0-9]*")):
        present = Receipt.read(published)
        if present is not None and present.key == key:
            shutil.copytree(published, folder, dirs_exist_ok=True, copy_function=_link)
            return f"{component.name}: unchanged, {present.verdict}"
    shutil.rmtree(stage / component.name, ignore_errors=True)
    started, partial_folder = time.monotonic(), stage / f".{component.name}"
    shutil.rmtree(partial_folder, ignore_errors=True)
    parity = _export(component, checkpoint, plan, stage, partial_folder / str(VERSION), fused)
    receipt = Receipt(key, parity, round(time.monotonic() - started, 1))
    receipt.write(partial_folder / str(VERSION))
    partial_folder.rename(stage / component.name)
    size = sum(path.stat().st_size for path in folder.iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{component.name}: {receipt.seconds:.0f} s, {receipt.verdict}, {size / 2**20:.1f} MiB; "
        f"memory so far at most {peak:.1f} GiB"
    )


def _link(source: str, target: str) -> None:
    """Weights need not exist twice while a build replaces another."""
    Path(target).unlink(missing_ok=True)
    Path(target).hardlink_to(source)


def _key(component: Component, checkpoint: Checkpoint, fused: bool) -> str:
    """A hash of all that a component is made from."""
    variant = component.variant
    facts = {
        "underpaint": __version__,
        "torch": torch.__version__,
        "parts": {part: checkpoint.digest(part) for part in component.parts},
        "index": dict(checkpoint.index),
        "vae": checkpoint.config("vae"),
        "dtype": str(component.dtype),
        "sizes": [list(size) for size in variant.sizes] if len(variant.sizes) == 1 else "open",
        "max_sequence_length": variant.max_sequence_length,
        "complex_human_instruction": variant.complex_human_instruction,
        "twins": list(component.twins),
        "rewrites": [rewrite.__name__ for rewrite in _rewrites(variant, fused)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _export(
    component: Component, checkpoint: Checkpoint, plan: Plan, stage: Path, folder: Path, fused: bool
) -> float | None:
    torch.manual_seed(0)
    graph = _graph(component, checkpoint)
    # Twins stay with onnxruntime whatever runs the network, see plans.engines.
    own, name = rewrites_for(component.variant.kind), component.variant.name
    twins = partial(write_twins, base=name, max_rank=MAX_LORA_RANK, rewrites=own) if component.twins else None
    tokens = _tokens(component.variant, stage) if component.role == "unet" else 0
    sizes = Sizes(component.variant.sizes, pixels_of_a_latent(checkpoint))
    parity = export(graph, folder, sizes, tokens, twins, _rewrites(component.variant, fused))
    for number, part in enumerate(component.parts):
        name = "config.json" if number == 0 else f"config_{number + 1}.json"
        shutil.copyfile(checkpoint.folder / part / "config.json", folder / name)
    return parity


def _rewrites(variant: VariantRecipe, fused: bool) -> Rewrites:
    return rewrites_for(variant.kind) if fused else NONE


def _graph(component: Component, checkpoint: Checkpoint) -> Graph:
    models = {part: checkpoint.load(part, component.dtype) for part in component.parts}
    if component.role == "text_encoder":
        return text_graph(checkpoint.pipeline, models, **_text_options(component.variant, checkpoint))
    (model,) = models.values()
    if component.role == "unet":
        return network_class(type(model).__name__)(model, pixels_of_a_latent(checkpoint))  # type: ignore[call-arg]
    return EncoderGraph(model) if component.role == "vae_encoder" else DecoderGraph(model)


def _text_options(variant: VariantRecipe, checkpoint: Checkpoint) -> dict[str, object]:
    """What the pipeline and the recipe leave to a text encoder's graph."""
    options: dict[str, object] = {}
    if "force_zeros_for_empty_prompt" in checkpoint.index:
        options["force_zeros_for_empty_prompt"] = checkpoint.index["force_zeros_for_empty_prompt"]
    if variant.max_sequence_length:
        options["max_sequence_length"] = variant.max_sequence_length
    if variant.complex_human_instruction:
        options["instructed"] = True
    return options


def _tokens(variant: VariantRecipe, stage: Path) -> int:
    """How many tokens the text encoder, which is made first, gives the network."""
    graph = stage / f"{variant.name}_text_encoder" / str(VERSION) / "model.onnx"
    return Signature.read(graph).outputs["last_hidden_state"].row[0]


def towers(plan: Plan, repository: Path, stage: Path) -> str:
    """Make the embedders that retrieval looks with, unless they are there; returns how that went."""
    recipe = plan.recipe
    facts = [__version__, torch.__version__, recipe.retrieval_model, recipe.retrieval_pretrained]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    for place in (stage, repository):
        present = [Receipt.read(place / name / str(VERSION)) for name in _EMBEDDERS]
        if all(receipt is not None and receipt.key == key for receipt in present):
            for name in (*_EMBEDDERS, EMBED_TOKENIZER) if place == repository else ():
                shutil.copytree(repository / name, stage / name, dirs_exist_ok=True, copy_function=_link)
            return f"{', '.join(_EMBEDDERS)}: unchanged"
    from underpaint.build.retrieval import build_towers, load, write_tokenizer  # needs an extra of its own

    write_tokenizer(recipe.retrieval_model, stage)
    parities = build_towers(load(recipe.retrieval_model, recipe.retrieval_pretrained), stage, recipe.variants[0].sizes)
    receipts = {name: Receipt(key, parity, 0.0) for name, parity in parities.items()}
    for name, receipt in receipts.items():
        receipt.write(stage / name / str(VERSION))
    return "; ".join(f"{name}: {receipt.verdict}" for name, receipt in receipts.items())
