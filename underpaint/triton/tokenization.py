"""A prompt as the ids that a family's text encoders read, by the ``tokenizers`` library alone.

A folder holds ``tokenizer.json``, ``tokenizer_2.json`` and so on, one for each text encoder, each with the length that
it cuts and pads to; and, where a pipeline does something to the words first, ``wording.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from underpaint.errors import InvalidArgument, NotFound
from underpaint.front_door.reading import Read, Readers

WORDING = "wording.json"
EMBED_TOKENIZER = "embed_tokenizer"  # of embedders that do not read as the family's variants do
_VERSION = "1"


@dataclass(frozen=True)
class Wording:
    """What is done to prompts before they are tokenized.

    ``lowercase``: they are put in lower case, and blanks at their ends removed. ``instruction``: it is put before
    prompts, not before negative ones, and the ids become as many more as it takes, less two, as in SANA's pipeline.
    """

    lowercase: bool = False
    instruction: str = ""

    @classmethod
    def load(cls, folder: Path) -> Wording:
        """Of a tokenizer's folder; nothing is done where it says nothing."""
        path = folder / WORDING
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()

    def save(self, folder: Path) -> None:
        (folder / WORDING).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def clean(self, prompt: str) -> str:
        return prompt.lower().strip() if self.lowercase else prompt


class PromptTokenizer:
    """Both prompts of a request, for every text encoder."""

    def __init__(self, tokenizers: Sequence[Tokenizer], wording: Wording | None = None) -> None:
        self._wording = wording or Wording()
        self._plain = list(tokenizers)
        self._instructed = [_lengthened(each, self._wording.instruction) for each in self._plain]
        self.lengths = tuple(_length(each) for each in self._plain)
        self._longest = self._plain[int(np.argmax(self.lengths))]
        self._markers = self._longest.num_special_tokens_to_add(is_pair=False)

    @classmethod
    def load(cls, folder: Path) -> PromptTokenizer:
        files = tokenizer_files(folder)
        return cls([Tokenizer.from_file(str(file)) for file in files], Wording.load(folder))

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of a prompt are read by the encoder that reads most, without its markers of begin and end."""
        return max(self.lengths) - self._markers

    def __call__(self, prompt: str, negative_prompt: str) -> dict[str, np.ndarray]:
        """``input_ids`` and ``negative_input_ids``, int32 [1, N], those of further encoders with _2, _3 at the end; and
        ``prompt_tokens`` int32 [1, 2], how many tokens both have, before any is cut off."""
        prompt, negative_prompt = self._wording.clean(prompt), self._wording.clean(negative_prompt)
        tensors = {"prompt_tokens": np.array([[self._count(prompt), self._count(negative_prompt)]], np.int32)}
        for number, (plain, instructed) in enumerate(zip(self._plain, self._instructed, strict=True), start=1):
            tensors[f"input_ids{suffix(number)}"] = _ids(instructed, self._wording.instruction + prompt)
            tensors[f"negative_input_ids{suffix(number)}"] = _ids(plain, negative_prompt)
        return tensors

    def ids(self, prompt: str) -> np.ndarray:
        """A prompt's ``input_ids`` alone."""
        return _ids(self._instructed[0], self._wording.instruction + self._wording.clean(prompt))

    def _count(self, prompt: str) -> int:
        return _encoded(self._longest, prompt).tokens


def readers_of(repository: Path, family: str) -> Readers:
    """Of the models in a repository, whose embedder may have a tokenizer of its own."""
    scorers = _reader(repository / f"{family}_tokenizer")
    own = repository / EMBED_TOKENIZER
    return Readers(_reader(own) if own.is_dir() else scorers, scorers)


def _reader(model: Path) -> Read:
    """Loaded with the first prompt, since not every family has what asks for it."""
    load = cache(PromptTokenizer.load)
    return lambda prompt: load(model / _VERSION).ids(prompt)


def suffix(number: int) -> str:
    """At the end of the names of what belongs to a pipeline's text encoder of that number, counted from 1."""
    return "" if number == 1 else f"_{number}"


def tokenizer_files(folder: Path) -> list[Path]:
    """One for each text encoder, in order."""
    if not (folder / "tokenizer.json").is_file():
        raise NotFound(f"{folder / 'tokenizer.json'} is missing: train or build the family first")
    return [folder / "tokenizer.json", *sorted(folder.glob("tokenizer_[0-9].json"))]


def _lengthened(tokenizer: Tokenizer, instruction: str) -> Tokenizer:
    """The tokenizer for prompts that follow an instruction."""
    if not instruction:
        return tokenizer
    longer = Tokenizer.from_str(tokenizer.to_str())
    length = _length(tokenizer) + len(_uncut(tokenizer).encode(instruction).ids) - 2
    longer.enable_truncation(length)
    longer.enable_padding(**{**(tokenizer.padding or {}), "length": length})
    return longer


def _length(tokenizer: Tokenizer) -> int:
    if tokenizer.truncation is None or tokenizer.padding is None:
        raise InvalidArgument.of("tokenizer", "one that neither cuts nor pads", "one that does, to a length of its own")
    return int(tokenizer.truncation["max_length"])


def _uncut(tokenizer: Tokenizer) -> Tokenizer:
    uncut = Tokenizer.from_str(tokenizer.to_str())
    uncut.no_truncation()
    uncut.no_padding()
    return uncut


def _ids(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    return np.array([_encoded(tokenizer, prompt).ids], np.int32)


@dataclass(frozen=True)
class _Encoded:
    """``tokens``: how many there are without markers, before any is cut off."""

    ids: list[int]
    tokens: int


@lru_cache(maxsize=4096)  # people ask for the same again, and the empty prompt comes with every request
def _encoded(tokenizer: Tokenizer, prompt: str) -> _Encoded:
    read = tokenizer.encode(prompt)
    parts = (read, *read.overflowing)  # each with markers and padding of its own
    return _Encoded(list(read.ids), sum(each.special_tokens_mask.count(0) for each in parts))
