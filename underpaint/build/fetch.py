"""Checkpoints from the hub, at the revisions that recipes name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import errors, hf_hub_download, snapshot_download

from underpaint.build.checkpoint import Checkpoint
from underpaint.build.recipes import VariantRecipe
from underpaint.errors import InvalidArgument, Unavailable

# Copies of the same weights in other precisions, whole or in parts, or for other frameworks.
_COPIES = ("*.fp16*", "*.bf16*", "*non_ema*", "*flax*", "*openvino*", "*onnx*")
_WEIGHTS = "*.safetensors"
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")
_LEFT_THERE = ("safety_checker", "feature_extractor", "image_encoder")  # components that are not served


def fetch(variant: VariantRecipe, with_weights: bool = True) -> Checkpoint:
    """A variant's checkpoint, in the hub's cache; what is there already is not fetched again.

    Only the folders of the pipeline's components: beside them stand the same weights as single files, up to 24 GB.

    Args:
        with_weights: or only what describes them.

    Raises:
        InvalidArgument: the recipe names none, or the hub has no such.
        Unavailable: it is gated and there is no token, or it could not be fetched whole.
    """
    if not variant.repo_id:
        raise InvalidArgument.of("--from", None, f"a folder with {variant.name}'s checkpoint: its recipe names none")
    source = {"repo_id": variant.repo_id, "revision": variant.revision}
    described = Checkpoint(Path(_guarded(hf_hub_download, filename="model_index.json", **source)).parent)
    kinds = (*_DESCRIPTIONS, *((_WEIGHTS,) if with_weights else ()))
    wanted = [f"{name}/{kind}" for name in described.components if name not in _LEFT_THERE for kind in kinds]
    folder = Path(_guarded(snapshot_download, allow_patterns=wanted, ignore_patterns=list(_COPIES), **source))
    if not variant.network_file or not with_weights:
        return Checkpoint(folder)
    source = {"repo_id": variant.network_repo_id, "revision": variant.network_revision}
    return Checkpoint(folder, Path(_guarded(hf_hub_download, filename=variant.network_file, **source)))


def _guarded(get: Callable[..., str], *, repo_id: str, revision: str, **what: Any) -> str:
    """What the hub's client gets, or in one sentence why it does not."""
    client = logging.getLogger("huggingface_hub")
    before = client.level
    client.setLevel(logging.ERROR)  # it tells of every try
    try:
        return get(repo_id, revision=revision, **what)
    except Exception as error:
        raise _explained(error, repo_id, revision) from None
    finally:
        client.setLevel(before)


def _explained(error: Exception, repo_id: str, revision: str) -> Exception:
    """What the hub's client raises, as one sentence; anything else as it is."""
    if isinstance(error, errors.GatedRepoError):
        return Unavailable(
            f"{repo_id} is gated: accept its licence at https://huggingface.co/{repo_id}, "
            "and log in with `hf auth login` or set HF_TOKEN"
        )
    known = errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.EntryNotFoundError
    if isinstance(error, known) and not isinstance(error, errors.LocalEntryNotFoundError):
        return InvalidArgument.of("repo_id, revision", f"{repo_id} at {revision}", "what the hub has")
    if isinstance(error, errors.LocalEntryNotFoundError | OSError):
        return Unavailable(
            f"{repo_id} could not be fetched whole ({type(error).__name__}); run the same command again, which goes on "
            "from what has come, or give a folder by --from"
        )
    return error
