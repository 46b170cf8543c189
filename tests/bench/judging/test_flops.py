"""Counting what graphs multiply, on graphs that can be counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from underpaint.bench.judging.flops import VariantCost, gflop
from underpaint.errors import InvalidArgument, Unsupported

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"


def save(folder: Path, nodes: list[onnx.NodeProto], given: Sequence[int | str], weights: dict[str, list[int]]) -> Path:
    """A graph from ``x`` to ``y``."""
    initializers = [
        helper.make_tensor(n, TensorProto.FLOAT, s, bytes(4 * _size(s)), raw=True) for n, s in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def test_a_convolution(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    path = save(tmp_path, nodes, ["batch", 3, 8, 8], {"w": [5, 3, 3, 3]})
    assert gflop(path) * 1e9 == pytest.approx(2 * 5 * 8 * 8 * 3 * 3 * 3)


def test_a_transposed_convolution(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    path = save(tmp_path, nodes, ["batch", 3, 8, 8], {"w": [3, 5, 2, 2]})
    assert gflop(path) * 1e9 == pytest.approx(2 * 3 * 8 * 8 * 5 * 2 * 2)


def test_products_one_after_the_other(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    nodes.append(helper.make_node("MatMul", ["r", "v"], ["y"]))
    path = save(tmp_path, nodes, ["batch", 6, 4], {"w": [4, 7], "v": [7, 2]})
    assert gflop(path) * 1e9 == pytest.approx(2 * 6 * 4 * 7 + 2 * 6 * 7 * 2)


def test_attention_of_onnxruntime(tmp_path: Path) -> None:
    """Between products, whose shapes it must not hide."""
    project = [
        helper.make_node("MatMul", ["x", weight], [name]) for weight, name in (("w", "q"), ("w", "k"), ("w", "v"))
    ]
    attend = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["m"], domain="com.microsoft", num_heads=2)
    nodes = [*project, attend, helper.make_node("MatMul", ["m", "w"], ["y"])]
    path = save(tmp_path, nodes, ["batch", 6, 4], {"w": [4, 4]})
    assert gflop(path) * 1e9 == pytest.approx(4 * 2 * 6 * 4 * 4 + 2 * 6 * 6 * 4 + 2 * 6 * 6 * 4)


def test_a_shape_that_depends_on_the_input_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    with pytest.raises(Unsupported, match="depend on the input"):
        gflop(save(tmp_path, nodes, ["batch", 3, "height", "width"], {"w": [5, 3, 1, 1]}))


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"model\.onnx"):
        gflop(tmp_path / "model.onnx")


def test_the_tiny_family() -> None:
    large, small = (VariantCost.read(REPOSITORY, variant) for variant in ("tiny-l", "tiny-s"))
    assert large.unet > small.unet > 0.1


def test_an_image_costs_its_steps_and_what_surrounds_them() -> None:
    cost = VariantCost(unet=1.0, text_encoder=0.1, vae_encoder=0.2, vae_decoder=0.4)
    assert cost.image(25, guidance_scale=3.0, from_image=False) == pytest.approx(50.6)
    assert cost.image(25, guidance_scale=1.0, from_image=False) == pytest.approx(25.6)
    assert cost.image(10, guidance_scale=3.0, from_image=True) == pytest.approx(20.8)
    assert cost.image(0, guidance_scale=3.0, from_image=True) == 0
