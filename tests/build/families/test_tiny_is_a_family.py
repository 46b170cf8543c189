"""The tiny family's committed graphs are those that ``underpaint build`` makes of its weights in the hub's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.conftest import REPOSITORY
from tests.serving.test_parity import config, pipeline
from underpaint.build.build_cli import find_recipe
from underpaint.build.checkpoint import Checkpoint
from underpaint.build.graph import Extent
from underpaint.build.making import _graph
from underpaint.build.plan import Plan, plan_build

VARIANT = "tiny-m"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of one variant, from a checkpoint that diffusers has written."""
    folder = tmp_path_factory.mktemp("hub") / VARIANT
    pipeline(VARIANT, FlowMatchEulerDiscreteScheduler.from_config(config(VARIANT))).save_pretrained(folder)
    family = find_recipe("tiny")
    variant = next(each for each in family.variants if each.name == VARIANT)
    recipe = replace(family, variants=(variant,), small=VARIANT, large=VARIANT, refiner="", clip=False, routing=False)
    return plan_build(recipe, {VARIANT: Checkpoint(folder)})


@pytest.mark.parametrize("role", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_the_graph_is_the_committed_one(plan: Plan, role: str) -> None:
    component = next(each for each in plan.components if each.role == role)
    graph = _graph(component, plan.checkpoints[VARIANT]).eval()
    inputs = graph.examples(Extent(64, 64, batch=3, tokens=24))
    with torch.no_grad():
        expected = graph(*inputs.values()).numpy()
    committed = Path(REPOSITORY) / component.name / "1" / "model.onnx"
    session = ort.InferenceSession(str(committed), providers=["CPUExecutionProvider"])
    (given,) = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
    apart = np.abs(given.astype(np.float64) - expected.astype(np.float64)).max()
    assert apart <= (1 if given.dtype == np.uint8 else 1e-3 * np.abs(expected).max())


def test_its_text_encoder_and_unet_get_twins(plan: Plan) -> None:
    twins = {component.role: component.twins for component in plan.components}
    assert (twins["unet"], twins["text_encoder"]) == (("lora", "locon"), ("lora",))
