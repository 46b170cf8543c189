"""Rewritten graphs compute what they computed before, and the rewrites find what they look for."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward
from onnx import TensorProto, helper

from underpaint.build.graph_editor import GraphEditor
from underpaint.build.graph_fusions import FOR_CPU, FOR_GPU, MICROSOFT, fuse
from underpaint.build.networks.unet import UNetGraph
from underpaint.build.onnx_graph import finish, trace, write_graph

WIDTH, TOKENS = 24, 5


def inputs_of(batch: int) -> dict[str, torch.Tensor]:
    return {
        "sample": torch.randn(batch, 4, 8, 8),
        "timestep": 1000 * torch.rand(batch),
        "encoder_hidden_states": torch.randn(batch, TOKENS, WIDTH),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[UNet2DConditionModel, Path]:
    """A UNet of every kind of block, with random weights, and its folder."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    for parameter in unet.parameters():  # zero biases and unit scales would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    unet.half().save_pretrained(folder)
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    write_graph(folder, UNetGraph(unet, 8).eval(), inputs_of(2), "noise_pred")
    return unet, folder / "model.onnx"


@pytest.fixture(scope="module")
def for_a_gpu(exported: tuple[UNet2DConditionModel, Path]) -> Path:
    """The same graph with a GPU's rewrites, beside the other."""
    unet, path = exported
    program = trace(UNetGraph(unet, 8).eval(), inputs_of(2), ["noise_pred"], {})
    weights = next(path.parent.glob("*.safetensors"))
    finish(path.parent, program, ["noise_pred"], weights, None, "for_a_gpu.onnx", FOR_GPU)
    return path.with_name("for_a_gpu.onnx")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_rewritten_unet_equals_torch(
    exported: tuple[UNet2DConditionModel, Path], for_a_gpu: Path, target: str, batch: int
) -> None:
    unet, path = exported[0], for_a_gpu if target == "gpu" else exported[1]
    inputs = inputs_of(batch)
    with torch.no_grad():
        expected = UNetGraph(unet, 8)(*inputs.values()).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max()


def test_every_rewrite_has_found_its_places(exported: tuple[UNet2DConditionModel, Path]) -> None:
    unet, path = exported
    graph = onnx.load(path, load_external_data=False).graph
    ops = Counter(node.op_type for node in graph.node)
    norms = [module for module in unet.modules() if isinstance(module, torch.nn.GroupNorm)]
    blocks = [name for name, _ in unet.named_modules() if name.endswith("transformer_blocks.0")]
    assert (ops["MultiHeadAttention"], ops["Softmax"]) == (2 * len(blocks), 0)
    assert ops["BatchNormalization"] == len(norms)
    assert (ops["ConvTranspose"], ops["Resize"]) == (1, 0)
    assert ops["Split"] == 2  # of the joined time and caption projections; none of the gated units
    assert {(node.domain, node.op_type) for node in graph.node if node.domain} == {(MICROSOFT, "MultiHeadAttention")}


def test_on_a_gpu_products_and_convolutions_stay_whole(
    exported: tuple[UNet2DConditionModel, Path], for_a_gpu: Path
) -> None:
    ops = Counter(node.op_type for node in onnx.load(for_a_gpu, load_external_data=False).graph.node)
    assert (ops["MultiHeadAttention"], ops["Softmax"]) == (8, 0)
    assert (ops["ConvTranspose"], ops["Resize"]) == (0, 1)
    gates = sum(isinstance(module, FeedForward) for module in exported[0].modules())
    assert ops["Split"] == 2 + gates


def test_reshapes_keep_the_batch_as_it_was(exported: tuple[UNet2DConditionModel, Path]) -> None:
    graph = onnx.load(exported[1], load_external_data=False).graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    shapes = [onnx.numpy_helper.to_array(values[n.input[1]]) for n in graph.node if n.op_type == "Reshape"]
    assert len(shapes) > 0
    assert all(shape[0] == 0 and (shape[1:] > 0).all() for shape in shapes)


def test_a_graph_in_which_nothing_fits_keeps_its_nodes() -> None:
    model = toy_model([helper.make_node("Relu", ["x"], ["y"])])
    fuse(model, FOR_CPU)
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    assert [opset.domain for opset in model.opset_import] == [""]


def test_the_editor_sorts_and_drops_what_nobody_reads() -> None:
    model = toy_model([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])])
    editor = GraphEditor(model.graph)
    editor.add("Add", [editor.add("Abs", ["x"], ["b"]), editor.add_constant("one", np.array([1], np.float32))], ["y"])
    editor.add_constant("unused", np.array([2], np.float32))
    editor.write_back()
    assert [node.op_type for node in model.graph.node] == ["Abs", "Add"]
    assert [tensor.name for tensor in model.graph.initializer] == ["one"]
    onnx.checker.check_model(model)


def toy_model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph(nodes, "toy", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
