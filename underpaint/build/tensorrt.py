"""TensorRT plans: what ``trtexec`` is told for a graph, and for which graph, GPU and TensorRT a plan was built.

A plan belongs to one TensorRT version and one kind of GPU, so plans are built where they are served, in the same
container. Networks are strongly typed (the precision is the graph's own), as TensorRT 11 has it always and TensorRT 10
when told so. Each size of image is an optimisation profile of its own, since kernels chosen for a range are slower.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import onnx

from underpaint.build.signatures import Signature, TensorSpec
from underpaint.errors import InvalidArgument, NotFound, Unavailable, Unsupported

TRTEXEC = "trtexec"
_BATCH = "batch"
_FLAGS = ("--stronglyTyped", "--skipInference", "--builderOptimizationLevel=3")
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True)
class Span:
    """What one free dimension may be: its least, its usual and its largest value."""

    least: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.usual <= self.largest:
            given = f"{self.least}, {self.usual}, {self.largest}"
            raise InvalidArgument.of("range of a dimension", given, "1 or more, rising")

    @classmethod
    def exactly(cls, value: int) -> Span:
        return cls(value, value, value)

    @classmethod
    def batch(cls, limit: int) -> Span:
        """Up to a batch limit, at its best with half of it; a single row is what guidance split in two sends."""
        return cls(1, max(1, limit // 2), limit)


@dataclass(frozen=True)
class Machine:
    """What a plan is bound to: a TensorRT version (``10.16.1``) and a compute capability (``9.0``)."""

    tensorrt: str
    compute_capability: str

    def __post_init__(self) -> None:
        if not _CAPABILITY.fullmatch(self.compute_capability):
            raise InvalidArgument.of("compute capability", self.compute_capability, "as nvidia-smi writes it, 9.0")


@dataclass(frozen=True)
class Recipe:
    """How one plan is built: from which graph, with which ranges. ``key`` tells it from every other."""

    graph: Path
    inputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, Span], ...]

    @classmethod
    def of(cls, graph: Path, batch: Span, sizes: Sequence[Mapping[str, int]] = (), **others: Span) -> Recipe:
        """For a graph as it is.

        Args:
            graph: an ONNX file.
            batch: of the dimension ``batch``.
            sizes: one profile each: what the free dimensions are that follow from the image's size.
            others: of further free dimensions, by name.

        Raises:
            NotFound: there is no such graph.
            InvalidArgument: it has a free dimension that nothing is said of.
        """
        inputs = tuple(Signature.read(graph).inputs.values())
        free = {name for each in inputs for name in _free(each)}
        ranges = {_BATCH: batch, **others}
        of_sizes = [tuple((name, value) for name, value in size.items() if name in free) for size in sizes or [{}]]
        profiles = tuple(
            {name: span for name, span in ranges.items() if name in free}
            | {name: Span.exactly(value) for name, value in size}
            for size in dict.fromkeys(of_sizes)  # a graph that does not depend on the size has one profile
        )
        unknown = free - set(profiles[0])
        if unknown:
            allowed = f"a range for each of {', '.join(sorted(free))}"
            raise InvalidArgument.of(f"{graph.name}: dimensions", ", ".join(sorted(unknown)), allowed)
        return cls(graph, inputs, profiles)

    def command(self, plan: Path, timing_cache: Path) -> list[str]:
        """The call of trtexec that builds it."""
        return [
            TRTEXEC,
            f"--onnx={self.graph}",
            f"--saveEngine={plan}",
            *_FLAGS,
            f"--timingCacheFile={timing_cache}",
            *self._shapes(),
        ]

    def largest_batch(self) -> int:
        return max(ranges[_BATCH].largest for ranges in self.profiles)

    def key(self, machine: Machine) -> str:
        """A hash of everything that a plan depends on."""
        facts = {"graph": graph_hash(self.graph), "flags": [*_FLAGS, *self._shapes()], **asdict(machine)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _shapes(self) -> Iterator[str]:
        if not any(_free(each) for each in self.inputs):
            return
        for number, ranges in enumerate(self.profiles):
            if len(self.profiles) > 1:
                yield f"--profile={number}"
            for flag, end in (("minShapes", "least"), ("optShapes", "usual"), ("maxShapes", "largest")):
                values = {name: int(getattr(span, end)) for name, span in ranges.items()}
                yield f"--{flag}={','.join(_at(each, values) for each in self.inputs)}"


def _free(spec: TensorSpec) -> tuple[str, ...]:
    """The names of the dimensions that the graph leaves open."""
    return tuple(each for each in spec.dims if isinstance(each, str))


def _at(spec: TensorSpec, values: Mapping[str, int]) -> str:
    """A shape as trtexec writes it: ``sample:2x4x64x64``."""
    return f"{spec.name}:{'x'.join(str(values[d] if isinstance(d, str) else d) for d in spec.dims)}"


def foreign_operators(graph: Path) -> str:
    """Whose operators a graph has that are not ONNX's, so that TensorRT cannot read it; empty where there are none."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return ", ".join(sorted({node.domain for node in nodes} - {"", "ai.onnx"}))


def graph_hash(graph: Path) -> str:
    """Of an ONNX file and of the weights that it keeps in other files."""
    digest = hashlib.sha256(graph.read_bytes())
    for name in sorted(_weight_files(graph)):
        with (graph.parent / name).open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()


def _weight_files(graph: Path) -> set[str]:
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    return {entry.value for each in tensors for entry in each.external_data if entry.key == "location"}


# Plans --------------------------------------------------------------------------------------------------------------


def plan_name(machine: Machine) -> str:
    """One file a compute capability, as ``cc_model_filenames`` of config.pbtxt tells them apart."""
    return f"model_sm{machine.compute_capability.replace('.', '')}.plan"


@dataclass(frozen=True)
class Label:
    """What lies beside a plan, as JSON: what it was built from and for."""

    key: str
    tensorrt: str
    compute_capability: str
    graph: str
    command: tuple[str, ...]

    def largest_batch(self) -> int:
        """Of the first tensor that it was told of, whose first dimension is the batch."""
        told = (re.match(r"--maxShapes=[^:]+:(\d+)", part) for part in self.command)
        return max((int(found.group(1)) for found in told if found), default=0)

    def write(self, plan: Path) -> None:
        _label_of(plan).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, plan: Path) -> Label:
        """Raises NotFound, InvalidArgument."""
        path = _label_of(plan)
        if not path.is_file():
            raise NotFound(
                f"{plan} has no {path.name} beside it, so nobody knows what it was built for: build it again"
            )
        try:
            raw = json.loads(path.read_text())
            return cls(**{**raw, "command": tuple(raw["command"])})
        except (ValueError, TypeError, KeyError):
            names = ", ".join(each.name for each in fields(cls))
            raise InvalidArgument(f"{path}: allowed: a JSON object of {names}") from None


def check(plan: Path, recipe: Recipe, machine: Machine) -> None:
    """That a plan is what would be built here and now.

    Raises:
        NotFound: there is no plan, or it is not labelled.
        InvalidArgument: it was built for another GPU or TensorRT, for smaller batches, or from another graph.
    """
    if not plan.is_file():
        raise NotFound(f"there is no {plan}: build it with --backend tensorrt")
    label = Label.read(plan)
    here = {"TensorRT": (label.tensorrt, machine.tensorrt)}
    here["compute capability"] = (label.compute_capability, machine.compute_capability)
    for what, (built, present) in here.items():
        if built != present:
            raise InvalidArgument.of(f"{plan.name}: {what}", built, f"{present}, which is here; build it again")
    if label.largest_batch() < recipe.largest_batch():
        allowed = f"{recipe.largest_batch()}, the model's max_batch_size; build it again"
        raise InvalidArgument.of(f"{plan.name}: largest batch", label.largest_batch(), allowed)
    if label.key != recipe.key(machine):
        raise InvalidArgument(f"{plan.name} was built from another graph or for other sizes: build it again")


def build_plan(recipe: Recipe, folder: Path, machine: Machine, timing_cache: Path) -> Path:
    """Build a plan with trtexec, unless it is there already; nothing half-written is left.

    Raises:
        Unsupported: there is no trtexec here.
        Unavailable: it failed.
    """
    plan = folder / plan_name(machine)
    if plan.is_file() and _label_of(plan).is_file() and Label.read(plan).key == recipe.key(machine):
        return plan
    unfinished = folder / f".{plan.name}"
    command = recipe.command(unfinished, timing_cache)
    if shutil.which(TRTEXEC) is None:
        raise Unsupported(f"no {TRTEXEC} on PATH; in the TensorRT container, run: {shlex.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not unfinished.is_file():
        unfinished.unlink(missing_ok=True)
        raise Unavailable(f"{TRTEXEC} failed for {recipe.graph}: {_last_error(done.stdout + done.stderr)}")
    label = Label(
        recipe.key(machine), machine.tensorrt, machine.compute_capability, graph_hash(recipe.graph), tuple(command)
    )
    label.write(plan)
    return unfinished.replace(plan)


def _label_of(plan: Path) -> Path:
    return plan.with_suffix(".json")


def _last_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "[E]" in line] or output.splitlines() or ["it said nothing"]
    return lines[-1].strip()


def find_machine() -> Machine:
    """The TensorRT and the first GPU of this machine, by ``trtexec`` and ``nvidia-smi``. Raises Unsupported."""
    version = re.search(r"TensorRT v(\d+)", _said([TRTEXEC, "--help"]))
    capability = _CAPABILITY.search(_said(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]))
    if version is None or capability is None:
        raise Unsupported(f"no {TRTEXEC}, or no GPU, on this machine: plans are built where they are served")
    return Machine(_dotted(version.group(1)), capability.group())


def _dotted(number: str) -> str:
    """trtexec writes 101601 for 10.16.1."""
    return f"{int(number[:-4])}.{int(number[-4:-2])}.{int(number[-2:])}" if len(number) > 4 else number


def _said(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
