"""Prompts become the ids that diffusers' pipelines make of them, without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import SanaPipeline
from transformers import CLIPTokenizer

from tests.build.families.miniature_tokenizers import clip_tokenizer, gemma_tokenizer, t5_tokenizer
from underpaint.build.tokenization import write_tokenizers
from underpaint.errors import InvalidArgument, NotFound
from underpaint.triton.tokenization import PromptTokenizer, Wording, readers_of

PROMPTS = ["", "a red circle", "A Red  circle!\nabove <unk>", "  blue ", "naïve 画", "red " * 40]
INSTRUCTION = "Enhance the prompt:\n- red -> a Red circle\nPrompt: "


def padded(tokenizer: Any, prompt: str, length: int) -> list[int]:
    tokenizer.padding_side = "right"
    return tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids


@pytest.fixture
def three(tmp_path: Path) -> tuple[PromptTokenizer, list[Any]]:
    tokenizers = [clip_tokenizer(12), clip_tokenizer(12, "!"), t5_tokenizer(20)]
    sources = [tmp_path / f"tokenizer_{i}" for i in range(3)]
    for tokenizer, source in zip(tokenizers, sources, strict=True):
        tokenizer.save_pretrained(source)
    write_tokenizers(tmp_path / "served", sources, [12, 12, 20], Wording())
    return PromptTokenizer.load(tmp_path / "served"), tokenizers


@pytest.mark.parametrize("prompt", PROMPTS)
def test_three_tokenizers_in_one_model(three: tuple[PromptTokenizer, list[Any]], prompt: str) -> None:
    served, tokenizers = three
    tensors = served(prompt, "blue")
    assert set(tensors) == {
        "prompt_tokens",
        *(f"{which}input_ids{number}" for which in ("", "negative_") for number in ("", "_2", "_3")),
    }
    for tokenizer, number, length in zip(tokenizers, ("", "_2", "_3"), (12, 12, 20), strict=True):
        assert tensors[f"input_ids{number}"].tolist() == [padded(tokenizer, prompt, length)]
        assert tensors[f"negative_input_ids{number}"].tolist() == [padded(tokenizer, "blue", length)]


def test_tokens_are_counted_for_the_encoder_that_reads_most(three: tuple[PromptTokenizer, list[Any]]) -> None:
    served, tokenizers = three
    assert served.prompt_tokens == 19  # T5's 20 without its end marker
    counts = served("red " * 40, "a red circle")["prompt_tokens"]
    assert counts.tolist() == [[len(tokenizers[2](p).input_ids) - 1 for p in ("red " * 40, "a red circle")]]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("instruction", ["", INSTRUCTION])
def test_sanas_wording_is_its_pipelines(tmp_path: Path, prompt: str, instruction: str) -> None:
    tokenizer = gemma_tokenizer(20)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_tokenizers(tmp_path / "served", [tmp_path / "tokenizer"], [20], Wording(True, instruction))
    tensors = PromptTokenizer.load(tmp_path / "served")(prompt, prompt)
    seen = ids_in_sanas_pipeline(tokenizer, prompt, [instruction] if instruction else None)
    assert tensors["input_ids"].tolist() == seen
    assert tensors["negative_input_ids"].tolist() == ids_in_sanas_pipeline(tokenizer, prompt, None)


def ids_in_sanas_pipeline(tokenizer: Any, prompt: str, instruction: list[str] | None) -> list[list[int]]:
    """What the pipeline hands to its text encoder."""
    seen: list[Any] = []

    class Encoder:
        def __call__(self, ids: Any, attention_mask: Any) -> Any:
            seen.append(ids)
            return (ids.float(),)

    pipeline = SanaPipeline.__new__(SanaPipeline)
    object.__setattr__(pipeline, "tokenizer", tokenizer)
    object.__setattr__(pipeline, "text_encoder", Encoder())
    pipeline._get_gemma_prompt_embeds(
        prompt, "cpu", None, max_sequence_length=20, complex_human_instruction=instruction
    )
    return seen[0].tolist()


def test_the_hubs_older_layout_of_clip_is_read_too(tmp_path: Path) -> None:
    tokenizer = clip_tokenizer(12)
    tokenizer.save_pretrained(tmp_path / "new")
    model = json.loads((tmp_path / "new" / "tokenizer.json").read_text())["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    (old / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, "pad_token": "<|endoftext|>"})
    )
    write_tokenizers(tmp_path / "served", [old], [12], Wording())
    ids = PromptTokenizer.load(tmp_path / "served")("a red circle", "")["input_ids"]
    assert ids.tolist() == [padded(tokenizer, "a red circle", 12)]
    assert isinstance(tokenizer, CLIPTokenizer)


@pytest.mark.parametrize("own", [True, False])
def test_front_doors_read_as_their_models_do(tmp_path: Path, own: bool) -> None:
    tokenizers = {"pair_tokenizer": clip_tokenizer(12), **({"embed_tokenizer": clip_tokenizer(8, "!")} if own else {})}
    for (name, tokenizer), length in zip(tokenizers.items(), (12, 8), strict=False):
        tokenizer.save_pretrained(tmp_path / f"source_{name}")
        write_tokenizers(tmp_path / name / "1", [tmp_path / f"source_{name}"], [length], Wording())
    readers = readers_of(tmp_path, "pair")
    for prompt in PROMPTS:
        scored, embedded = readers.scorers(prompt), readers.embedder(prompt)
        assert scored.tolist() == [padded(tokenizers["pair_tokenizer"], prompt, 12)]
        assert embedded.tolist() == ([padded(tokenizers["embed_tokenizer"], prompt, 8)] if own else scored.tolist())
        assert scored.dtype == embedded.dtype == np.int32


def test_a_tokenizer_that_is_not_there_is_missed_when_it_is_asked(tmp_path: Path) -> None:
    readers = readers_of(tmp_path, "pair")
    with pytest.raises(NotFound, match=r"pair_tokenizer/1/tokenizer\.json is missing"):
        readers.scorers("a red circle")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="holds no tokenizer"):
        write_tokenizers(tmp_path / "served", [tmp_path / "nothing"], [12], Wording())
    with pytest.raises(NotFound, match=r"tokenizer\.json is missing"):
        PromptTokenizer.load(tmp_path / "served")
