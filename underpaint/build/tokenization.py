"""From a checkpoint's tokenizer folders to the one folder that a family's tokenizer model serves from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from underpaint.errors import InvalidArgument
from underpaint.triton.tokenization import Wording, suffix


def write_tokenizers(folder: Path, sources: Sequence[Path], lengths: Sequence[int], wording: Wording) -> None:
    """Write ``folder``, one tokenizer for each of ``sources``, which cuts and pads to that one's length.

    Raises:
        InvalidArgument: a source holds no tokenizer that the ``tokenizers`` library can run, or none that pads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, (source, length) in enumerate(zip(sources, lengths, strict=True), start=1):
        _read(source, length).save(str(folder / f"tokenizer{suffix(number)}.json"))
    if wording != Wording():
        wording.save(folder)


def _read(source: Path, length: int) -> Tokenizer:
    try:
        loaded = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{source} holds no tokenizer that transformers can read: {error}") from None
    tokenizer: Tokenizer | None = getattr(loaded, "backend_tokenizer", None)
    if tokenizer is None or loaded.pad_token is None:
        raise InvalidArgument.of(str(source), type(loaded).__name__, "a tokenizer of the tokenizers library that pads")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=loaded.pad_token_id, pad_token=loaded.pad_token, direction="right")
    return tokenizer
