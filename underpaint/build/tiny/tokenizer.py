"""The tokenizer: byte-level BPE in CLIP's format, whose merges are learnt from the family's captions.

Every word of the captions is one token; any other text falls back to pieces and bytes. The same files serve
transformers' `CLIPTokenizer` and, without torch or transformers, the `tokenizers` library alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import CLIPTokenizer

from underpaint.build.tiny.architectures import TOKENS
from underpaint.build.tiny.scenes import COLOURS, POSITIONS, RELATIONS, SHAPES, SIZES, TEXTURES

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

Pair = tuple[str, str]


def caption_words() -> list[str]:
    """Every word that a caption can hold, sorted."""
    phrases = [*COLOURS, *SHAPES, *SIZES, *TEXTURES, *RELATIONS, *POSITIONS, "a", "on", "background"]
    return sorted({word for phrase in phrases for word in phrase.split()})


def learn_merges(words: Iterable[str]) -> list[Pair]:
    """Byte-pair encoding until every word is one token: merge the commonest pair, ties in order of spelling."""
    spellings = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges: list[Pair] = []
    while any(len(pieces) > 1 for pieces in spellings):
        counts = Counter(pair for pieces in spellings for pair in pairwise(pieces))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spellings = [_merge(pieces, best) for pieces in spellings]
    return merges


def _merge(pieces: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def build_vocabulary(merges: list[Pair]) -> dict[str, int]:
    """CLIP's order: bytes, bytes that end a word, merges, begin, end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + WORD_END for letter in alphabet), *(a + b for a, b in merges), BEGIN, END]
    return {piece: index for index, piece in enumerate(pieces)}


def write_tokenizer(folder: Path) -> None:
    """Write vocab.json, merges.txt, tokenizer_config.json and tokenizer.json (which pads and truncates)."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(caption_words())
    vocabulary = build_vocabulary(merges)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, bos_token=BEGIN, eos_token=END, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    alone: Tokenizer = tokenizer.backend_tokenizer
    alone.enable_truncation(TOKENS)
    alone.enable_padding(pad_id=vocabulary[END], pad_token=END, length=TOKENS)
    alone.save(str(folder / "tokenizer.json"))
    listing = json.dumps(vocabulary, ensure_ascii=False, indent=1)
    (folder / "vocab.json").write_text(listing + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer as transformers reads it."""
    return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer: CLIPTokenizer, prompts: list[str]) -> list[list[int]]:
    """Ids [B, 24]: begin, words, end, padded with end."""
    ids: list[list[int]] = tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS).input_ids
    return ids
