"""Checkpoints from the hub, at the revisions that recipes name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import errors, hf_hub_download, snapshot_download

from underpaint.build.checkpoint import Checkpoint
from underpaint.build.recipes import VariantRecipe
from underpaint.errors import InvalidArgument, Unavailable

_WEIGHTS = ("*.safetensors",)
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")
# Copies of the same weights in other precisions or for other frameworks, which checkpoints often bring as well.
_LEFT_THERE = ("*.fp16.*", "*.bf16.*", "*non_ema*", "*flax*", "*openvino*", "*onnx*", "safety_checker/*")


def fetch(variant: VariantRecipe, with_weights: bool = True) -> Checkpoint:
    """A variant's checkpoint, in the hub's cache; what is there already is not fetched again.

    Args:
        with_weights: or only what describes them.

    Raises:
        InvalidArgument: the recipe names none, or the hub has no such.
        Unavailable: it is gated and there is no token, or it could not be fetched whole.
    """
    if not variant.repo_id:
        raise InvalidArgument.of("--from", None, f"a folder with {variant.name}'s checkpoint: its recipe names none")
    patterns = [f"*/{pattern}" for pattern in (*_DESCRIPTIONS, *(_WEIGHTS if with_weights else ()))]
    folder = _guarded(variant.repo_id, variant.revision, ["model_index.json", *patterns])
    if not variant.network_file or not with_weights:
        return Checkpoint(folder)
    return Checkpoint(folder, _file(variant))


def _guarded(repo_id: str, revision: str, patterns: Sequence[str]) -> Path:
    try:
        return Path(
            snapshot_download(
                repo_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_LEFT_THERE)
            )
        )
    except Exception as error:
        raise _explained(error, repo_id, revision) from None


def _file(variant: VariantRecipe) -> Path:
    repo_id, revision = variant.network_repo_id, variant.network_revision
    try:
        return Path(hf_hub_download(repo_id, variant.network_file, revision=revision))
    except Exception as error:
        raise _explained(error, repo_id, revision) from None


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
