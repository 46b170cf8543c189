"""Tokenizers of the real classes with an alphabet for a vocabulary: CLIP's, T5's and Gemma's."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase, digits

from tokenizers.processors import TemplateProcessing
from transformers import CLIPTokenizer, GemmaTokenizer, T5Tokenizer

_LETTERS = (*ascii_lowercase, *digits, ",", ".", "!", "-", ":", ">", "'")
_MERGES = (("r", "e"), ("re", "d</w>"), ("c", "i"), ("b", "l"), ("u", "e</w>"), ("bl", "ue</w>"))  # red, ci, blue


def clip_tokenizer(length: int, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """ViT-L's pads with its end marker, bigG's with an exclamation mark, which has number 0."""
    words = ["!", *_LETTERS, *(letter + "</w>" for letter in _LETTERS), *("".join(pair) for pair in _MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(_MERGES), pad_token=pad_token, model_max_length=length)


def t5_tokenizer(length: int) -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in (*_LETTERS, *ascii_uppercase)] + [("▁red", -4.0), ("ci", -4.0)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def gemma_tokenizer(length: int) -> GemmaTokenizer:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *_LETTERS, *ascii_uppercase, "re", "red"]
    vocabulary = {word: number for number, word in enumerate(words)}
    merges = [("r", "e"), ("re", "d")]
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)
    marked = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    tokenizer.backend_tokenizer.post_processor = marked
    return tokenizer
