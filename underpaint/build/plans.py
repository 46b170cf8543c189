"""A repository's graphs as TensorRT plans: the same models under the same names, run by another backend."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from underpaint.build.plan_files import build_plan, check, find_machine, plan_name
from underpaint.build.recipes import FamilyRecipe, VariantRecipe
from underpaint.build.shapes import VERSION, config_json, vae_scale_factor
from underpaint.build.tensorrt import Machine, Recipe, Span, foreign_operators
from underpaint.errors import InvalidArgument, NotFound, UnderpaintError, Unsupported
from underpaint.triton.model_config import ModelConfig, ModelInstanceGroup, to_text

_RESIDUALS = Span(1, 2, 16)  # of those that a decoder half adds up, an open dimension that is no batch
_GRAPH = "graph"  # the parameter that remembers what a plan was built from, relative to the version directory
_TIMING_CACHE = "timing.cache"
_PIXELS = ("_vae_encoder",)  # graphs whose height and width count pixels, not latents


@dataclass(frozen=True)
class Engine:
    """A model of the repository, and how its plan is built."""

    model: str
    recipe: Recipe


def engines(recipe: FamilyRecipe, repository: Path) -> Iterator[Engine]:
    """Every model of a variant that runs a graph of its own.

    Not its twins for LoRAs, which stay with onnxruntime: they pick rows by a number that is only known once they run
    (TopK) and fold pixels together (Col2Im), neither of which TensorRT reads.

    Raises:
        NotFound: there are none, or a graph is missing.
        InvalidArgument: a graph has a dimension that nothing is known of.
    """
    for variant in recipe.variants:
        paths = sorted(repository.glob(f"{variant.name}_*/config.pbtxt"))
        if not paths:
            raise NotFound(f"{repository} has no models of {variant.name}: build {recipe.name} first")
        for path in paths:
            config = _read(path)
            if config.backend not in ("onnxruntime", "tensorrt") or _is_twin(config):
                continue
            graph = path.parent / str(VERSION) / (_graph_file(config) or "model.onnx")
            limit = config.max_batch_size or variant.max_rows
            sizes = _sizes(variant, repository, config.name)
            yield Engine(config.name, Recipe.of(graph.resolve(), Span.batch(limit), sizes, residuals=_RESIDUALS))


def _is_twin(config: ModelConfig) -> bool:
    return "lora_bank" in {declared.name for declared in config.input}


def build_plans(recipe: FamilyRecipe, repository: Path, tell: Callable[[str], None]) -> bool:
    """Build all plans and point the configs at them; where there is no trtexec, tell what to run. Whether it was done.

    Raises:
        InvalidArgument: the graphs have operators of onnxruntime's own.
        Unavailable: a build failed; what was built before it stays.
    """
    wanted = list(engines(recipe, repository))
    for engine in wanted:
        foreign = foreign_operators(engine.recipe.graph)
        if foreign:
            allowed = "ONNX's own; build the family with --backend tensorrt"
            raise InvalidArgument.of(f"{engine.model}: operators", foreign, allowed)
    try:
        machine = find_machine()
    except Unsupported as why:
        tell(f"# {why}")
        for engine in wanted:
            folder = repository / engine.model / str(VERSION)
            tell(shlex.join(engine.recipe.command(folder / "model.plan", repository / _TIMING_CACHE)))
        return False
    for engine in wanted:
        folder = repository / engine.model / str(VERSION)
        plan = build_plan(engine.recipe, folder, machine, repository / _TIMING_CACHE)
        config = repository / engine.model / "config.pbtxt"
        config.write_text(to_text(with_plan(_read(config), engine.recipe, machine)))
        tell(f"{plan}: {plan.stat().st_size / 2**20:.1f} MiB")
    return True


def check_plans(recipe: FamilyRecipe, repository: Path) -> list[str]:
    """What is wrong with a repository's plans on this machine, a sentence each.

    Raises:
        Unsupported: there is no trtexec here, or no GPU.
    """
    machine, wrong = find_machine(), []
    for engine in engines(recipe, repository):
        try:
            check(repository / engine.model / str(VERSION) / plan_name(machine), engine.recipe, machine)
        except UnderpaintError as error:
            wrong.append(f"{engine.model}: {error}")
    return wrong


def with_plan(config: ModelConfig, recipe: Recipe, machine: Machine) -> ModelConfig:
    """The same model run by TensorRT: on a GPU, with a CUDA graph for the usual batches of every size."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.backend, changed.platform = "tensorrt", "tensorrt_plan"
    changed.default_model_filename = plan_name(machine)
    changed.cc_model_filenames[machine.compute_capability] = plan_name(machine)
    changed.ClearField("parameters")  # of onnxruntime, and so what it tells CUDA
    changed.optimization.ClearField("execution_accelerators")
    changed.parameters[_GRAPH].string_value = _graph_file(config)
    count = sum(group.count for group in config.instance_group) or 1
    profiles = [str(number) for number in range(len(recipe.profiles))]
    changed.ClearField("instance_group")
    changed.instance_group.append(ModelInstanceGroup(kind=ModelInstanceGroup.KIND_GPU, count=count, profile=profiles))
    changed.optimization.cuda.graphs = True
    for ranges in recipe.profiles:
        for batch in _usual(ranges["batch"]):
            spec = changed.optimization.cuda.graph_spec.add(batch_size=batch if config.max_batch_size else 0)
            for each in recipe.inputs:
                spec.input[each.name].dim.extend(_dims(each.dims, ranges, batch, bool(config.max_batch_size)))
    return changed


def _usual(batch: Span) -> list[int]:
    """Powers of two, and the limit."""
    powers = [2**n for n in range(batch.largest.bit_length()) if batch.least <= 2**n <= batch.largest]
    return sorted({*powers, batch.largest})


def _dims(shape: Sequence[int | str], ranges: Mapping[str, Span], batch: int, batched: bool) -> list[int]:
    """Of one call; without the batch where Triton counts that apart."""
    values = [batch if d == "batch" else ranges[d].usual if isinstance(d, str) else d for d in shape]
    return values[1:] if batched else values


def _graph_file(config: ModelConfig) -> str:
    """The graph, where it is another model's; a model that runs a plan remembers it."""
    if config.backend == "tensorrt":
        return config.parameters[_GRAPH].string_value
    return config.default_model_filename


def _sizes(variant: VariantRecipe, repository: Path, model: str) -> list[dict[str, int]]:
    """Heights and widths as the model counts them."""
    scale = 1 if model.endswith(_PIXELS) else vae_scale_factor(config_json(repository, f"{variant.name}_vae_decoder"))
    return [{"height": height // scale, "width": width // scale} for width, height in variant.sizes]


def _read(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(), ModelConfig())
