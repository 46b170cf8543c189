"""Networks and text encoders of SD 3.5, FLUX and SANA say what diffusers' pipelines have them say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from tests.build.families import miniature_transformers as miniature
from underpaint.build.graph import Extent
from underpaint.build.networks import network_class
from underpaint.build.networks.flux import FluxGraph
from underpaint.build.networks.sana import SanaGraph
from underpaint.build.networks.sd3 import SD3Graph
from underpaint.build.text.flux import FluxTextGraph
from underpaint.build.text.gemma import GemmaTextGraph
from underpaint.build.text.sd3 import SD3TextGraph

PROMPTS = ["a red circle", "", "Blue, above a red one - and much more than fits into it"]
EXTENTS = [Extent(width=32, height=32, tokens=9), Extent(width=24, height=48, batch=3, tokens=5)]


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("extent", EXTENTS)
def test_sd3(extent: Extent) -> None:
    transformer = miniature.sd35().transformer
    inputs = SD3Graph(transformer, 2).examples(extent)
    sample, timestep, states, pooled = inputs.values()
    assert list(inputs) == ["sample", "timestep", "encoder_hidden_states", "pooled_projections"]
    expected = transformer(sample, states, pooled, timestep).sample
    torch.testing.assert_close(SD3Graph(transformer, 2)(**inputs), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_flux_packs_and_numbers_tokens_as_its_pipeline_does(extent: Extent, guidance_embeds: bool) -> None:
    transformer = miniature.flux(guidance_embeds).transformer
    graph = FluxGraph(copy.deepcopy(transformer), 2)
    inputs = graph.examples(extent)
    sample, timestep, states, pooled, *guidance = inputs.values()
    assert ("guidance" in inputs) == guidance_embeds
    batch, channels, height, width = sample.shape
    expected = transformer(
        FluxPipeline._pack_latents(sample, batch, channels, height, width),
        states,
        pooled,
        timestep / 1000,
        FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32),
        torch.zeros(states.shape[1], 3),
        *guidance,
    ).sample
    expected = FluxPipeline._unpack_latents(expected, height * 8, width * 8, 8)
    torch.testing.assert_close(graph(**inputs), expected, atol=1e-4, rtol=1e-4)


def test_flux_at_the_far_corner_of_a_large_image() -> None:
    """Positions are rounded to float32 here, where diffusers has float64."""
    theirs = miniature.flux().transformer
    ids = torch.tensor([[0.0, 511.0, 511.0], [0.0, 3.0, 255.0]])
    graph = FluxGraph(copy.deepcopy(theirs), 2)
    for ours, expected in zip(graph.weights.pos_embed(ids), theirs.pos_embed(ids), strict=True):
        torch.testing.assert_close(ours, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("extent", EXTENTS)
def test_sana(extent: Extent) -> None:
    transformer = miniature.sana().transformer
    graph = SanaGraph(copy.deepcopy(transformer), 4)
    inputs = graph.examples(extent)
    sample, timestep, states, mask = inputs.values()
    expected = transformer(sample, states, timestep, encoder_attention_mask=mask).sample
    torch.testing.assert_close(graph(**inputs), expected, atol=1e-5, rtol=1e-5)
    unmasked = graph(sample, timestep, states, torch.ones_like(mask))
    assert (unmasked - expected).abs().max() > 1e-3  # padding would have been read


def test_sana_where_relu_silences_every_latent() -> None:
    """0 / 1e-15 and not 0 / 0."""
    transformer = miniature.sana().transformer
    for block in transformer.transformer_blocks:
        block.attn1.to_k.weight.zero_()
    graph = SanaGraph(transformer, 4)
    assert torch.isfinite(graph(**graph.examples(EXTENTS[0]))).all()


def test_networks_are_found_by_their_class() -> None:
    assert network_class("SD3Transformer2DModel") is SD3Graph
    assert network_class("FluxTransformer2DModel") is FluxGraph
    assert network_class("SanaTransformer2DModel") is SanaGraph


# Text ---------------------------------------------------------------------------------------------------------------


def ids(tokenizer: Any, prompts: list[str], length: int) -> torch.Tensor:
    tokenizer.padding_side = "right"
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def test_sd3s_text() -> None:
    pipe = miniature.sd35()
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    expected = pipe.encode_prompt(PROMPTS, None, None, max_sequence_length=miniature.T5_TOKENS)
    weights = torch.nn.ModuleDict({name: getattr(pipe, name) for name in names})
    graph = SD3TextGraph(weights, miniature.T5_TOKENS)
    clip, t5 = miniature.CLIP_TOKENS, miniature.T5_TOKENS
    read = [
        ids(pipe.tokenizer, PROMPTS, clip),
        ids(pipe.tokenizer_2, PROMPTS, clip),
        ids(pipe.tokenizer_3, PROMPTS, t5),
    ]
    states, pooled = graph(*(each.int() for each in read))
    torch.testing.assert_close(states, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, expected[2], atol=1e-5, rtol=1e-5)


def test_fluxs_text() -> None:
    pipe = miniature.flux()
    expected_states, expected_pooled, _ = pipe.encode_prompt(PROMPTS, max_sequence_length=miniature.T5_TOKENS)
    weights = torch.nn.ModuleDict({name: getattr(pipe, name) for name in ("text_encoder", "text_encoder_2")})
    graph = FluxTextGraph(weights, miniature.T5_TOKENS)
    states, pooled = graph(
        ids(pipe.tokenizer, PROMPTS, miniature.CLIP_TOKENS).int(),
        ids(pipe.tokenizer_2, PROMPTS, miniature.T5_TOKENS).int(),
    )
    torch.testing.assert_close(states, expected_states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("instruction", [None, ["Enhance", "the Prompt: "]])
def test_sanas_text(instruction: list[str] | None) -> None:
    pipe, length = miniature.sana(), miniature.GEMMA_TOKENS
    expected_states, expected_mask, *_ = pipe.encode_prompt(
        PROMPTS, False, max_sequence_length=length, complex_human_instruction=instruction
    )
    before = "\n".join(instruction or [])
    more = len(pipe.tokenizer.encode(before)) - 2 if instruction else 0
    read = ids(pipe.tokenizer, [before + prompt.lower().strip() for prompt in PROMPTS], length + more)
    states, mask = GemmaTextGraph(pipe.text_encoder, length)(read.int())
    assert states.shape[1] == length
    torch.testing.assert_close(states, expected_states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mask, expected_mask.float())
