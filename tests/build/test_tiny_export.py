"""What the model repository holds, read twice: by diffusers or transformers, and by onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from underpaint.build.autoencoders import DecoderGraph, EncoderGraph
from underpaint.build.networks.unet import UNetGraph
from underpaint.build.onnx_graph import write_graph
from underpaint.build.text.clip import ClipTextGraph
from underpaint.build.tiny.architectures import TOKENS, VARIANTS, AutoencoderShape, build_autoencoder
from underpaint.build.tiny.evaluate import load_variant
from underpaint.build.tiny.export import (
    ImageEmbedderGraph,
    TextEmbedderGraph,
    _store_in_half,
    version_folder,
)

REPOSITORY = Path(__file__).parents[2] / "model_repository"
COMPONENTS = ("unet", "text_encoder", "vae_encoder", "vae_decoder")
SHAPE = AutoencoderShape("micro", 4, 8, encoder_blocks=(0, 1, 1), decoder_blocks=(1, 1, 1))
LARGEST_FILE = 16 * 2**20  # bytes


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs_of(name: str, component: str, batch: int) -> dict[str, torch.Tensor]:
    shape = VARIANTS[name]
    side = shape.autoencoder.latent_side
    latents = torch.randn(batch, shape.autoencoder.latent_channels, side, side)
    states = torch.randn(batch, TOKENS, shape.text_width)
    return {
        "unet": {"sample": latents, "timestep": 1000 * torch.rand(batch), "encoder_hidden_states": states},
        "text_encoder": {"input_ids": torch.randint(600, (batch, TOKENS)).int()},
        "vae_encoder": {"image": torch.randint(256, (batch, 64, 64, 3)).to(torch.uint8)},
        "vae_decoder": {"latents": latents},
    }[component]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("name", VARIANTS)
def test_onnx_equals_the_classes_on_the_same_folder(name: str, component: str) -> None:
    torch.manual_seed(0)
    variant = load_variant(REPOSITORY, VARIANTS[name])
    graph = {
        "unet": UNetGraph(variant.unet, 8),
        "text_encoder": ClipTextGraph(variant.text_encoder),
        "vae_encoder": EncoderGraph(variant.autoencoder),
        "vae_decoder": DecoderGraph(variant.autoencoder),
    }[component]
    onnx_session = session(version_folder(REPOSITORY, VARIANTS[name], component) / "model.onnx")
    for batch in (1, 3, 8):
        inputs = inputs_of(name, component, batch)
        with torch.no_grad():
            expected = graph(*inputs.values()).numpy()
        (got,) = onnx_session.run(None, {key: value.numpy() for key, value in inputs.items()})
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        tolerance = 1 if got.dtype == np.uint8 else 1e-4 * max(1.0, np.abs(expected).max())
        assert np.abs(got.astype(float) - expected).max() <= tolerance


@pytest.mark.parametrize("tower", ["embed_text", "embed_image"])
def test_embedders_give_unit_vectors_that_transformers_gives_too(tower: str) -> None:
    folder = REPOSITORY / tower / "1"
    if tower == "embed_text":
        inputs = {"input_ids": torch.randint(600, (3, TOKENS)).int()}
        graph: torch.nn.Module = TextEmbedderGraph(CLIPTextModelWithProjection.from_pretrained(folder).float())
    else:
        inputs = {"image": torch.randint(256, (3, 64, 64, 3)).to(torch.uint8)}
        graph = ImageEmbedderGraph(CLIPVisionModelWithProjection.from_pretrained(folder).float())
    (got,) = session(folder / "model.onnx").run(None, {key: value.numpy() for key, value in inputs.items()})
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(got, graph.eval()(*inputs.values()).numpy(), atol=1e-4)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_stored_once_and_graphs_are_clean(name: str, component: str) -> None:
    folder = version_folder(REPOSITORY, VARIANTS[name], component)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    inside = [tensor for tensor in model.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(np.prod(tensor.dims) for tensor in inside) < 2000
    assert len(inside) < len(model.graph.initializer)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert all(file.stat().st_size < LARGEST_FILE for file in folder.iterdir())


def test_an_export_is_reproducible(tmp_path: Path) -> None:
    autoencoder = build_autoencoder(SHAPE, 2.0)
    stored = _store_in_half(autoencoder, tmp_path)
    written = []
    for _ in range(2):
        write_graph(tmp_path, DecoderGraph(stored).eval(), {"latents": torch.randn(2, 4, 16, 16)}, "image")
        written.append((tmp_path / "model.onnx").read_bytes())
    assert written[0] == written[1]
