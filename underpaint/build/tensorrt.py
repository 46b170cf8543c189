"""TensorRT: what ``trtexec`` is told for a graph, and the hash of all that a plan depends on.

A plan belongs to one TensorRT version and one kind of GPU, so plans are built where they are served, in the same
container. Networks are strongly typed (the precision is the graph's own), as TensorRT 11 has it always and TensorRT 10
when told so. Each size of image is an optimisation profile of its own, since kernels chosen for a range are slower.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from underpaint.build.signatures import Signature, TensorSpec
from underpaint.errors import InvalidArgument

TRTEXEC = "trtexec"
_BATCH = "batch"
_FLAGS = ("--stronglyTyped", "--skipInference", "--builderOptimizationLevel=3")
CAPABILITY = re.compile(r"\d{1,2}\.\d")


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
        if not CAPABILITY.fullmatch(self.compute_capability):
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
