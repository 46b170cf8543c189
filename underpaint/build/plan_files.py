"""Plans as files: built by ``trtexec``, labelled with what they were built from and for, and checked against that."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from underpaint.build.tensorrt import CAPABILITY, TRTEXEC, Machine, Recipe, graph_hash
from underpaint.errors import InvalidArgument, NotFound, Unavailable, Unsupported


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
    capability = CAPABILITY.search(_said(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]))
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
