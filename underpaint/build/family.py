"""``underpaint build``: from checkpoints to a model repository that a tritonserver loads.

Everything is made in a folder beside the repository and moved there when all of it is whole, model by model, each by
one rename. What an interrupted build has finished is recognised by a hash of what it was made from, and kept.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
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
from underpaint.build.plan import Component, Plan, pixels_of_a_latent, served_schedule
from underpaint.build.recipes import VariantRecipe
from underpaint.build.repository import EMBED_TOKENIZER, render, write
from underpaint.build.shapes import VERSION
from underpaint.build.signatures import Signature, TensorSpec
from underpaint.build.text import text_graph
from underpaint.build.text.wording import wording
from underpaint.build.tokenization import write_tokenizers
from underpaint.errors import InvalidArgument, NotFound, Unavailable, Unsupported

MAX_LORA_RANK = 128
_EMBEDDERS = ("embed_text", "embed_image")
_RECEIPT = "build.json"  # beside a component's graph: what it was made from, and how well
_OF_A_FAMILY = "generate/1/deployment.json"


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
        path = folder / _RECEIPT
        return cls(**json.loads(path.read_text())) if path.is_file() else None

    def write(self, folder: Path) -> None:
        (folder / _RECEIPT).write_text(json.dumps(self.__dict__, indent=1) + "\n")


def build(plan: Plan, repository: Path, fused: bool, tell: Callable[[str], None], version: int = VERSION) -> None:
    """Make everything that is planned, and put it into ``repository``.

    Args:
        fused: graphs with onnxruntime's own operators.
        tell: takes a line about each thing that is done.
        version: another than the first is put beside what is served, for `underpaint rollout`, and serves nobody yet.

    Raises:
        InvalidArgument: the repository is another family's, or a checkpoint is broken.
        NotFound: there is no repository to put a further version into.
        Unsupported: a package that it needs is not installed.
        Unavailable: there is not enough space for it.
    """
    _check_family(plan, repository)
    if version != VERSION and not (repository / _OF_A_FAMILY).is_file():
        raise NotFound(f"{repository} holds nothing that version {version} could follow; build version {VERSION} first")
    if plan.recipe.retrieval_model and find_spec("open_clip") is None:
        raise Unsupported("open_clip, which the embedders are made of, is missing: pip install 'underpaint[retrieval]'")
    stage = repository.with_name(f"{repository.name}.building")
    _check_space(plan, stage)
    stage.mkdir(parents=True, exist_ok=True)
    for number, component in enumerate(plan.components, start=1):
        tell(f"[{number}/{len(plan.components)}] {_made(plan, component, repository, stage, fused)}")
    for variant in plan.recipe.variants:
        _write_rest(plan, variant, stage)
    if plan.recipe.retrieval_model:
        tell(_towers(plan, repository, stage))
    write(render(plan.recipe, stage), stage)
    names = ", ".join(variant.name for variant in plan.recipe.variants)
    if version == VERSION:
        _publish(stage, repository)
    else:
        _put_beside(plan, stage, repository, version)
    tell(f"{repository}: family {plan.recipe.name}, {names}, version {version}")


def _check_family(plan: Plan, repository: Path) -> None:
    """One repository, one family: front doors know only one."""
    deployment = repository / _OF_A_FAMILY
    present = json.loads(deployment.read_text())["family"] if deployment.is_file() else plan.recipe.name
    if present != plan.recipe.name:
        allowed = f"a new folder, or a repository of {plan.recipe.name}"
        raise InvalidArgument.of("--repository", f"{repository.name} of the family {present}", allowed)


def _check_space(plan: Plan, stage: Path) -> None:
    place = next(each for each in (stage, *stage.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    done = sum(path.stat().st_size for path in stage.rglob("*.safetensors")) if stage.exists() else 0
    if free + done < plan.disk_bytes:
        raise Unavailable(
            f"{place} has {free / 2**30:.1f} GiB left, the build needs {(plan.disk_bytes - done) / 2**30:.1f} GiB"
        )


# Components -----------------------------------------------------------------------------------------------------


def _made(plan: Plan, component: Component, repository: Path, stage: Path, fused: bool) -> str:
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


def _towers(plan: Plan, repository: Path, stage: Path) -> str:
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


# The rest -------------------------------------------------------------------------------------------------------


def _write_rest(plan: Plan, variant: VariantRecipe, stage: Path) -> None:
    """What has no weights: scheduler and tokenizers."""
    checkpoint = plan.checkpoints[variant.name]
    denoiser = stage / f"{variant.name}_denoiser" / str(VERSION)
    denoiser.mkdir(parents=True, exist_ok=True)
    config = served_schedule(variant, checkpoint)
    (denoiser / "scheduler_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    graph = stage / f"{variant.name}_text_encoder" / str(VERSION) / "model.onnx"
    signature = Signature.read(graph)
    lengths = [_length(spec, signature) for spec in signature.inputs.values()]
    words = wording(checkpoint.pipeline, variant.complex_human_instruction)
    folder = stage / f"{variant.tokenizer or plan.recipe.name}_tokenizer" / str(VERSION)
    write_tokenizers(folder, checkpoint.tokenizers, lengths, words)


def _length(ids: TensorSpec, text_encoder: Signature) -> int:
    """Of what a tokenizer makes; where an instruction may come before it, as much as the encoder keeps of it."""
    return ids.row[0] if ids.row[0] > 0 else text_encoder.outputs["last_hidden_state"].row[0]


def _publish(stage: Path, repository: Path) -> None:
    """Put all of it in place at once; into a repository that is there, model by model, each for the one before it."""
    for unfinished in stage.glob(".*"):
        shutil.rmtree(unfinished)
    if not repository.exists():
        stage.rename(repository)
        return
    for model in sorted(stage.iterdir()):
        target, old = repository / model.name, stage / f".old-{model.name}"
        if target.exists():
            _keep_what_is_not_ours(target, model)
            target.rename(old)
        model.rename(target)
    shutil.rmtree(stage)


def _keep_what_is_not_ours(old: Path, new: Path) -> None:
    """Other versions, and what others have put beside ours, such as the front door's calibration."""
    ours = {str(VERSION)} if (old / str(VERSION) / _RECEIPT).is_file() else set()
    for path in (path for path in old.rglob("*") if path.is_file()):
        target = new / path.relative_to(old)
        if not target.exists() and path.relative_to(old).parts[0] not in ours:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _put_beside(plan: Plan, stage: Path, repository: Path, version: int) -> None:
    """Put what has weights, and the denoisers, which know the schedule, into version directories of their own."""
    denoisers = [f"{variant.name}_denoiser" for variant in plan.recipe.variants]
    for name in [*(component.name for component in plan.components), *denoisers]:
        target, old = repository / name / str(version), stage / f".old-{name}"
        if target.exists():
            target.rename(old)
        (stage / name / str(VERSION)).rename(target)
    shutil.rmtree(stage)
