"""``underpaint bench addons``: options, a server of its own, and the report."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from underpaint.addons.layout import LoraLayout
from underpaint.addons.location import VARIABLE
from underpaint.bench.addons import costs
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import about, leave
from underpaint.bench.serving.site import PATIENCE_S
from underpaint.build.tiny import control_images
from underpaint.build.tiny.scenes import scene_at
from underpaint.client.messages import Wishes
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of, own_server
from underpaint.client.sync_client import Client
from underpaint.errors import InvalidArgument

_CONTROLNETS = 3  # as many as a workload has
_PREFIX = "controlnet_"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("addons", help="what LoRAs and ControlNets cost", description=costs.__doc__)
    parser.add_argument("--variant", help="default: the first that takes LoRAs and ControlNets")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--steps", type=int, default=20, help="of each picture (default: 20)")
    options.add_report(parser)
    options.add_repository(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, rounds=1)
    variant = args.variant or _first_with_both(args.model_repository)
    layout = LoraLayout.load(args.model_repository / f"{variant}_unet" / "1")
    machine = Machine.watched()
    with tempfile.TemporaryDirectory(prefix="underpaint-addons-") as folder:
        store, repository = Path(folder) / "lora", Path(folder) / "model_repository"
        loras = costs.write_random_loras(store, layout)
        controlnets = _copy_with_controlnets(args.model_repository, repository, _CONTROLNETS)
        os.environ[VARIABLE] = str(store)  # of this process and its server alone
        with own_server(repository) as url, Client(url, timeout_s=PATIENCE_S) as client:
            client.wait_ready()
            report = _measure(args, client, variant, repository, store, controlnets, loras)
    full: dict[str, Any] = {
        **costs.to_json(report),
        "variant": variant,
        **about(machine),
    }
    print(f"LoRAs of rank {costs.RANK}, {costs.DISTINCT} in a batch of {costs.REQUESTS}: {report.overhead:+.1%} a step")
    for name, figures in full["workloads"].items():
        print(
            f"{name}: {figures['latency_ratio']:.2f} times the bare latency, throughput "
            f"{figures['throughput_ratio_to_serial']:.2f} times serial, "
            f"{figures['throughput_ratio_to_diffusers']:.2f} times diffusers"
        )
    leave(full, args.json)
    return 0


def _measure(
    args: argparse.Namespace,
    client: Client,
    variant: str,
    repository: Path,
    store: Path,
    controlnets: Sequence[str],
    loras: Sequence[str],
) -> costs.Report:
    from underpaint.bench.addons.alone import SerialDiffusers, SerialOnnx  # torch, which the server does not need

    image = control_images.layout(scene_at(0, 0))
    guidance_scale, threads = deployment_of(repository).variants[variant].guidance_scale, os.cpu_count() or 1
    onnx = SerialOnnx(repository, variant, args.steps, guidance_scale, threads)
    diffusers = SerialDiffusers(repository, variant, args.steps, guidance_scale)

    def alone(contender: SerialOnnx | SerialDiffusers) -> costs.Alone:
        return lambda number, workload: contender.paint(PROMPTS[number % len(PROMPTS)], workload, store, image)

    paint = _painter(client, variant, args.steps, image)
    return costs.measure(paint, alone(onnx), alone(diffusers), controlnets, loras, args.rounds, print)


def _copy_with_controlnets(repository: Path, copy: Path, count: int) -> list[str]:
    """The repository with so many ControlNets, the last ones copies of the first; their names."""
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
    there = sorted(copy.glob(f"{_PREFIX}*"))
    if not there:
        raise InvalidArgument.of("model-repository", str(repository), "one with a ControlNet")
    for number in range(len(there), count):
        twin = shutil.copytree(there[0], copy / f"{_PREFIX}bench{number}")
        config = twin / "config.pbtxt"
        config.write_text(config.read_text().replace(f'"{there[0].name}"', f'"{twin.name}"', 1))
    return sorted(path.name.removeprefix(_PREFIX) for path in copy.glob(f"{_PREFIX}*"))[:count]


def _first_with_both(repository: Path) -> str:
    able = [name for name, each in deployment_of(repository).variants.items() if each.loras and each.controlnets]
    if not able:
        allowed = "one with a variant that takes LoRAs and ControlNets"
        raise InvalidArgument.of("model-repository", str(repository), allowed)
    return able[0]


def _painter(client: Client, variant: str, steps: int, image: np.ndarray) -> costs.Paint:
    def paint(number: int, workload: costs.Workload) -> costs.Painted:
        wishes: Wishes = {"variant": variant, "num_inference_steps": steps, "cache": "off", "seed": number}
        if workload.loras:
            wishes |= {"lora": ",".join(workload.loras)}
        if workload.controlnets:
            wishes |= {"controlnet": ",".join(workload.controlnets), "control_image": image[None]}
        prompt = PROMPTS[number % len(PROMPTS)]
        outcome = client.generate(prompt, **wishes).outcome
        at_once = all(use.joined_at == 0 for use in outcome.loras)
        return costs.Painted(outcome.timings_ms.denoise, outcome.timings_ms.total, at_once)

    return paint
