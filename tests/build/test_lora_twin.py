"""The LoRA twins against diffusers with PEFT: the same file, the same weights, the same prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import save
from transformers import CLIPTextModel

from underpaint.addons.layout import LoraLayout
from underpaint.addons.lora import Lora, read_lora
from underpaint.diffusion.adapters import Adapter, Banks

peft = pytest.importorskip("peft")

REPOSITORY = Path(__file__).parents[2] / "model_repository"
UNET, TEXT = REPOSITORY / "tiny-m_unet" / "1", REPOSITORY / "tiny-m_text_encoder" / "1"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
EVERYTHING = [
    *ATTENTION,
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
]
LAYOUTS = {"unet": LoraLayout.load(UNET), "text_encoder": LoraLayout.load(TEXT)}
# float16 factors against float32, over a whole network; its outputs are about 1.
TOLERANCE = 5e-3


def adapted_unet(targets: list[str], ranks: Mapping[str, int]) -> tuple[UNet2DConditionModel, list[Lora]]:
    """A UNet with PEFT adapters of random weights, and the same as our reader sees them in diffusers' files."""
    unet = UNet2DConditionModel.from_pretrained(UNET, torch_dtype=torch.float32).eval()
    loras = []
    for name, rank in ranks.items():
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights="gaussian")
        unet.add_adapter(config, adapter_name=name)
        draw_up_factors(unet, name, spread=0.05)
        state = peft.get_peft_model_state_dict(unet, adapter_name=name)
        file = {f"unet.{key}": value.contiguous() for key, value in convert_state_dict_to_diffusers(state).items()}
        loras.append(read_lora(name, save(file), LAYOUTS, {"lora_alpha": 2 * rank, "r": rank}))
    return unet, loras


def draw_up_factors(network: torch.nn.Module, name: str, spread: float) -> None:
    """PEFT begins with zeros, which would change nothing."""
    for key, parameter in network.named_parameters():
        if f"lora_B.{name}" in key:
            torch.nn.init.normal_(parameter, std=spread)


def inputs_of(rows: int) -> dict[str, torch.Tensor]:
    latents, states = torch.randn(rows, 16, 8, 8), torch.randn(rows, 24, 64)
    return {"sample": latents, "timestep": 1000 * torch.rand(rows), "encoder_hidden_states": states}


def run(folder: Path, graph: str, inputs: Mapping[str, Any]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / graph), options, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {name: np.asarray(value) for name, value in inputs.items()})[0]
    return output


def adapted(parts: list[np.ndarray | None], scales: np.ndarray, rows_of_each: int = 1) -> dict[str, np.ndarray]:
    """What a twin takes for rows that have these parts by these scales [groups, LoRAs], each group so many rows."""
    adapters = [[Adapter(part, scale) for part, scale in zip(parts, row, strict=True)] for row in scales.tolist()]  # type: ignore[arg-type]
    made = Banks().of([group for group in adapters for _ in range(rows_of_each)])
    return {"lora_bank": made.bank, "lora_scales": made.scales}


@pytest.mark.parametrize(("targets", "graph"), [(ATTENTION, "lora.onnx"), (EVERYTHING, "locon.onnx")])
def test_one_two_or_no_loras_a_row_are_what_peft_makes_of_them(targets: list[str], graph: str) -> None:
    torch.manual_seed(0)
    unet, loras = adapted_unet(targets, {"first": 4, "second": 3})
    inputs = inputs_of(4)
    scales = np.array([[0.8, 0], [0, -0.5], [0.7, 0.6], [0, 0]], np.float32)
    bank = adapted([lora.unet for lora in loras], scales)
    width = LAYOUTS["unet"].narrow_width if graph == "lora.onnx" else LAYOUTS["unet"].width
    assert bank["lora_bank"].shape == (4, 7, width)
    got = run(UNET, graph, {**inputs, **bank})
    moved = []
    for row, weights in enumerate(scales):
        with torch.no_grad():
            unet.disable_adapters()
            plain = unet(*(each[row : row + 1] for each in inputs.values())).sample.numpy()[0]
            if weights.any():
                unet.enable_adapters()
                unet.set_adapters(["first", "second"], weights.tolist())
            expected = unet(*(each[row : row + 1] for each in inputs.values())).sample.numpy()[0]
        np.testing.assert_allclose(got[row], expected, atol=TOLERANCE)
        moved.append(np.abs(expected - plain).max())
    assert min(moved[:3]) > 20 * TOLERANCE  # or the comparison would say nothing
    assert moved[3] == 0


def test_the_text_encoders_twin_is_what_peft_makes_of_it() -> None:
    torch.manual_seed(0)
    encoder = CLIPTextModel.from_pretrained(TEXT, torch_dtype=torch.float32).eval()
    ids = torch.randint(600, (2, 24)).int()
    with torch.no_grad():
        plain = encoder(ids.long()).last_hidden_state.numpy()
    targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    encoder.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets), adapter_name="reader")
    draw_up_factors(encoder, "reader", spread=0.05)
    state = peft.get_peft_model_state_dict(encoder, adapter_name="reader")
    lora = read_lora(
        "reader", save({f"text_encoder.{key}": value.contiguous() for key, value in state.items()}), LAYOUTS
    )
    assert lora.text_encoder is not None
    with torch.no_grad():
        expected = encoder(ids.long()).last_hidden_state.numpy()
    bank = adapted([lora.text_encoder], np.ones((1, 1)), rows_of_each=2)
    got = run(TEXT, "lora.onnx", {"input_ids": ids, **bank})
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)
    assert np.abs(expected - plain).max() > 20 * TOLERANCE


@pytest.mark.parametrize("graph", ["lora.onnx", "locon.onnx"])
def test_a_groups_answer_does_not_depend_on_the_loras_of_others(graph: str) -> None:
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    width = LAYOUTS["unet"].narrow_width if graph == "lora.onnx" else LAYOUTS["unet"].width
    bank = (0.03 * draw.standard_normal((3, 16, width))).astype(np.float16)
    inputs, scales = inputs_of(6), np.tile([[0.5], [1.0], [-0.7]], 16).astype(np.float32)
    together = run(UNET, graph, {**inputs, "lora_bank": bank, "lora_scales": scales})
    for row in range(6):
        alone = {name: each[row : row + 1] for name, each in inputs.items()}
        own = {"lora_bank": bank[row // 2][None], "lora_scales": scales[row // 2][None]}
        np.testing.assert_allclose(run(UNET, graph, {**alone, **own})[0], together[row], atol=1e-4)


@pytest.mark.parametrize(("folder", "graph"), [(UNET, "lora.onnx"), (UNET, "locon.onnx"), (TEXT, "lora.onnx")])
def test_twins_bring_no_weights_of_their_own(folder: Path, graph: str) -> None:
    model = onnx.load(folder / graph, load_external_data=False)
    inside = [tensor for tensor in model.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    assert sum(np.prod(tensor.dims) for tensor in inside) < 2000
    assert len(inside) < len(model.graph.initializer)
    assert (folder / graph).stat().st_size < 2**19
