"""``underpaint build``: from checkpoints to a model repository that a tritonserver loads.

Everything is made in a folder beside the repository and moved there when all of it is whole, model by model, each by
one rename. What an interrupted build has finished is recognised by a hash of what it was made from, and kept.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError

from underpaint.build.making import RECEIPT, made, towers
from underpaint.build.plan import Plan, served_schedule
from underpaint.build.recipes import VariantRecipe
from underpaint.build.repository import render, write
from underpaint.build.shapes import VERSION
from underpaint.build.signatures import Signature, TensorSpec
from underpaint.build.text.wording import wording
from underpaint.build.tokenization import write_tokenizers
from underpaint.errors import InvalidArgument, NotFound, Unavailable, Unsupported

_OF_A_FAMILY = "generate/1/deployment.json"


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
    with _naming_a_full_disk(stage):
        for number, component in enumerate(plan.components, start=1):
            tell(f"[{number}/{len(plan.components)}] {made(plan, component, repository, stage, fused)}")
        for variant in plan.recipe.variants:
            _write_rest(plan, variant, stage)
        if plan.recipe.retrieval_model:
            tell(towers(plan, repository, stage))
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


@contextlib.contextmanager
def _naming_a_full_disk(stage: Path) -> Iterator[None]:
    """What is half-made goes, so that there is room again; safetensors says it in words only."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        for unfinished in stage.glob(".*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        raise Unavailable(
            f"the disk of {stage} is full; make room and run the same command again: what is finished is kept"
        ) from None


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
    ours = {str(VERSION)} if (old / str(VERSION) / RECEIPT).is_file() else set()
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
