"""The bare UNet, with a graph of one operator in its place."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from underpaint.bench.denoising.unet import BareUNet, RowShapes, Setup
from underpaint.errors import InvalidArgument

SHAPES = RowShapes(sample=(4, 8, 8), encoder_hidden_states=(3, 5))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A UNet by its inputs and outputs: it hands back the sample."""
    inputs = {"sample": ["b", 4, 8, 8], "timestep": ["b"], "encoder_hidden_states": ["b", 3, 5]}
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info("noise_pred", TensorProto.FLOAT, inputs["sample"])
    nodes = [helper.make_node("Identity", ["sample"], ["noise_pred"])]
    model = helper.make_model(
        helper.make_graph(nodes, "unet", declared, [output]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("setup", [Setup(1, 1, 1), Setup(2, 1, 4)])
def test_rows_a_second(graph: Path, setup: Setup) -> None:
    assert BareUNet(graph, SHAPES).rows_per_s(setup, 0.02) > 0


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"model\.onnx"):
        BareUNet(tmp_path / "model.onnx", SHAPES)
