"""A component's graph is compared with torch on any machine, whatever it computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tests.build.families.miniatures import unet
from underpaint.build import export as exporting
from underpaint.build.export import Sizes, export
from underpaint.build.graph_fusions import FOR_GPU, NONE
from underpaint.build.networks.unet import UNetGraph
from underpaint.errors import Internal

SIZES = Sizes(((32, 32), (48, 32)), pixels=4)


def narrow_unet() -> UNetGraph:
    torch.manual_seed(3)
    return UNetGraph(unet(cross_attention_dim=16).to(torch.bfloat16), vae_scale_factor=4)


def test_a_bfloat16_graph_is_compared_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parity = export(narrow_unet(), tmp_path, SIZES, tokens=5, rewrites=FOR_GPU)
    assert parity is not None
    assert parity < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.safetensors"]
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    assert "MultiHeadAttention" in {node.op_type for node in graph.node}
    assert {each.data_type for each in graph.initializer if each.external_data} == {onnx.TensorProto.BFLOAT16}
    monkeypatch.setattr(exporting, "available_bytes", lambda: 1000)
    assert exporting._compare_widened(narrow_unet(), tmp_path / "model.onnx", SIZES.other(narrow_unet(), 5)) is None


def test_a_half_precision_network_that_is_told_sizes(tmp_path: Path) -> None:
    """SDXL's: what it is told is joined in float32."""
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    made = unet(cross_attention_dim=16, projection_class_embeddings_input_dim=48 + 6 * 8, **told)
    parity = export(UNetGraph(made.half(), vae_scale_factor=4), tmp_path, SIZES, tokens=5, rewrites=FOR_GPU)
    assert parity is not None
    assert parity < 1e-2


def test_a_bfloat16_graph_that_computes_something_else_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exporting.finish

    def wrong(folder: Path, *args: Any, **kwargs: Any) -> None:
        made(folder, *args, **kwargs)
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    monkeypatch.setattr(exporting, "finish", wrong)
    with pytest.raises(Internal, match=r"noise_pred differs from torch's by .*; at most 0\.001"):
        export(narrow_unet(), tmp_path, SIZES, tokens=5, rewrites=NONE)
    assert not (tmp_path / "widened.onnx").exists()
