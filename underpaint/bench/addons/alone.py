"""What the bench of add-ons is held against: the same work without a server, one request after the other.

``SerialOnnx``: the same ONNX graphs in onnxruntime, ControlNets one after the other and then the UNet, and a LoRA
merged into the weights for a request and out of them after it. onnxruntime has no way to merge but to make the session
anew with other weights. ``SerialDiffusers``: StableDiffusionControlNetPipeline, which loads LoRAs with PEFT and unloads
them. Both include loading and unloading in their time, keep ControlNets in memory, and use a thread for each core.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from underpaint.addons.layout import LoraLayout
from underpaint.addons.lora import Lora, read_lora
from underpaint.addons.residuals import EncoderShape
from underpaint.bench.addons.costs import Workload
from underpaint.build.tiny.spread import SpreadControlNet
from underpaint.build.tiny.tokenizer import encode, load_tokenizer

_PREFIX, _STORED = "weights.", ".weight_float16"


class SerialOnnx:
    """The graphs of one variant."""

    def __init__(self, repository: Path, variant: str, steps: int, guidance_scale: float, threads: int) -> None:
        self._unet = repository / f"{variant}_unet" / "1"
        self._layout = LoraLayout.load(self._unet)
        self._steps, self._guidance_scale, self._threads = steps, guidance_scale, threads
        self._base = {name: self._open(self._unet / f"{name}.onnx") for name in ("model", "encoder", "decoder")}
        self._text, self._decode = (
            self._open(repository / f"{variant}_{part}" / "1" / "model.onnx")
            for part in ("text_encoder", "vae_decoder")
        )
        self._controlnets = {
            path.parents[1].name.removeprefix("controlnet_"): self._open(path)
            for path in repository.glob("controlnet_*/1/model.onnx")
        }
        self._tokenizer = load_tokenizer(repository / "tiny_tokenizer" / "1")
        self._scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(repository / f"{variant}_denoiser" / "1")

    def paint(self, prompt: str, workload: Workload, store: Path, image: np.ndarray) -> float:
        """Seconds that a request took, from its LoRAs' files to pixels."""
        began = time.perf_counter()
        loras = [
            read_lora(n, (store / f"{n}.safetensors").read_bytes(), {"unet": self._layout}) for n in workload.loras
        ]
        needed = ("encoder", "decoder") if workload.controlnets else ("model",)
        sessions = {name: self._merged(name, loras) if loras else self._base[name] for name in needed}
        ids = np.array(encode(self._tokenizer, ["", prompt]), np.int32)
        states = self._text.run(None, {"input_ids": ids})[0]
        latents = self._denoised(sessions, states, workload.controlnets, np.stack([image, image]))
        self._decode.run(None, {"latents": latents})
        return time.perf_counter() - began

    def _denoised(
        self, sessions: dict[str, Any], states: np.ndarray, controlnets: Sequence[str], images: np.ndarray
    ) -> np.ndarray:
        self._scheduler.set_timesteps(self._steps)
        channels, side = self._base["model"].get_inputs()[0].shape[1:3]
        x = torch.randn(1, channels, side, side)
        for t in self._scheduler.timesteps:
            rows = {"sample": np.repeat(x.numpy(), 2, axis=0), "timestep": np.full(2, float(t), np.float32)}
            predicted = self._predicted(sessions, {**rows, "encoder_hidden_states": states}, controlnets, images)
            guided = predicted[:1] + self._guidance_scale * (predicted[1:] - predicted[:1])
            x = self._scheduler.step(torch.from_numpy(guided), t, x).prev_sample
        return np.asarray(x)

    def _predicted(
        self, sessions: dict[str, Any], rows: dict[str, np.ndarray], controlnets: Sequence[str], images: np.ndarray
    ) -> np.ndarray:
        if not controlnets:
            return np.asarray(sessions["model"].run(None, rows)[0])
        said = [self._controlnets[name].run(None, {**rows, "control_image": images})[0] for name in controlnets]
        decoding = {
            "skips": sessions["encoder"].run(None, rows)[0],
            "encoder_hidden_states": rows["encoder_hidden_states"],
            "residuals": np.concatenate(said),
            "residual_scales": np.tile(np.eye(2, dtype=np.float32), len(said)),
        }
        return np.asarray(sessions["decoder"].run(None, decoding)[0])

    def _open(self, path: Path, weights: dict[str, np.ndarray] | None = None) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weight) for weight in (weights or {}).values()]
        if weights:
            options.add_external_initializers(list(weights), values)
        return onnxruntime.InferenceSession(str(path), options)

    def _merged(self, name: str, loras: Sequence[Lora]) -> Any:
        """A session of a graph with LoRAs in the weights of attention: W + Σ up · down."""
        from safetensors.numpy import load_file

        path = self._unet / f"{name}.onnx"
        base, graph = load_file(self._unet / "diffusion_pytorch_model.safetensors"), path.read_bytes()
        merged = {}
        for layer in self._layout.layers[: self._layout.narrow]:
            key = f"{_PREFIX}{layer.name}{_STORED}"
            if key.encode() in graph:
                weight, start = base[f"{layer.name}.weight"], self._layout.offsets[layer.name]
                added = sum(_product(lora, start, layer.down, layer.outputs) for lora in loras)
                merged[key] = (weight + np.reshape(added, weight.shape)).astype(np.float16)
        return self._open(path, merged)


def _product(lora: Lora, start: int, down: int, outputs: int) -> np.ndarray:
    assert lora.unet is not None
    factors = lora.unet.astype(np.float32)
    rows, columns = factors[:, start : start + down], factors[:, start + down : start + down + outputs]
    return columns.T @ rows


class SerialDiffusers:
    """diffusers' pipeline over the same folders."""

    def __init__(self, repository: Path, variant: str, steps: int, guidance_scale: float) -> None:
        def part(cls: Any, name: str) -> Any:
            return cls.from_pretrained(str(repository / f"{variant}_{name}" / "1"), torch_dtype=torch.float32)

        self._steps, self._guidance_scale = steps, guidance_scale
        self._plain = StableDiffusionPipeline(
            vae=part(AutoencoderTiny, "vae_decoder"),
            text_encoder=part(CLIPTextModel, "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(str(repository / "tiny_tokenizer" / "1")),
            unet=part(UNet2DConditionModel, "unet"),
            scheduler=_FlowMatchScheduler.from_pretrained(str(repository / f"{variant}_denoiser" / "1")),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        unet = EncoderShape.of(self._plain.unet.config)
        self._controlnets = {
            path.parent.name.removeprefix("controlnet_"): SpreadControlNet.load(path, unet)
            for path in repository.glob("controlnet_*/1")
        }

    def paint(self, prompt: str, workload: Workload, store: Path, image: np.ndarray) -> float:
        """Seconds that a request took, from its LoRAs' files to pixels, and until they are out again."""
        began = time.perf_counter()
        pipe, told = self._plain, {}
        if workload.controlnets:
            controlnets = [self._controlnets[name] for name in workload.controlnets]
            pipe = StableDiffusionControlNetPipeline(**{**pipe.components, "controlnet": controlnets})
            told = {"image": [Image.fromarray(image)] * len(controlnets)}
        pipe.set_progress_bar_config(disable=True)
        for name in workload.loras:
            pipe.load_lora_weights(str(store), weight_name=f"{name}.safetensors", adapter_name=name)
        if workload.loras:
            pipe.unet.set_adapter(list(workload.loras))
        with torch.no_grad():
            pipe(prompt, num_inference_steps=self._steps, guidance_scale=self._guidance_scale, **told)
        if workload.loras:
            pipe.unload_lora_weights()
        return time.perf_counter() - began


class _FlowMatchScheduler(FlowMatchEulerDiscreteScheduler):
    """diffusers has no pipeline for a UNet under flow matching; these two members are all that the call misses."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        return sample
