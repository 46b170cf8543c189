"""``underpaint bench addons``: options, a server of its own, and the report."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from underpaint.addons.layout import LoraLayout
from underpaint.addons.location import VARIABLE
from underpaint.bench import addons
from underpaint.bench.machine import Machine, now, versions
from underpaint.bench.serving import PATIENCE_S
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of, own_server
from underpaint.client.sync_client import Client
from underpaint.deployment import default_repository
from underpaint.errors import InvalidArgument


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("addons", help="what LoRAs cost", description=addons.__doc__)
    parser.add_argument("--variant", help="default: the first that takes LoRAs")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--steps", type=int, default=20, help="of each picture (default: 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument(
        "--model-repository", type=Path, default=default_repository(), help="default: that of underpaint serve"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise InvalidArgument.of("rounds", args.rounds, "1 or more")
    variant = args.variant or _first_with_loras(args.model_repository)
    layout = LoraLayout.load(args.model_repository / f"{variant}_unet" / "1")
    machine = Machine.here()
    machine.warn_if_busy()
    with tempfile.TemporaryDirectory(prefix="underpaint-loras-") as folder:
        loras = addons.write_random_loras(Path(folder), layout)
        os.environ[VARIABLE] = folder  # of this process and its server alone
        with own_server(args.model_repository) as url, Client(url, timeout_s=PATIENCE_S) as client:
            client.wait_ready()
            report = addons.measure(_painter(client, variant, args.steps), loras, args.rounds, print)
    full = {**addons.to_json(report), "variant": variant, "machine": asdict(machine), "versions": versions()}
    full["measured_at"] = now()
    print(
        f"LoRAs of rank {addons.RANK}, {addons.DISTINCT} in a batch of {addons.REQUESTS}: {report.overhead:+.1%} a step"
    )
    for name, ratio in report.latency_ratios.items():
        print(f"{name}: {ratio:.2f} times the bare latency")
    if args.json:
        args.json.write_text(json.dumps(full, indent=2, default=str) + "\n")
    return 0


def _first_with_loras(repository: Path) -> str:
    able = [name for name, variant in deployment_of(repository).variants.items() if variant.loras]
    if not able:
        raise InvalidArgument.of("model-repository", str(repository), "one with a variant that takes LoRAs")
    return able[0]


def _painter(client: Client, variant: str, steps: int) -> addons.Paint:
    def paint(number: int, lora: str) -> addons.Painted:
        prompt = PROMPTS[number % len(PROMPTS)]
        outcome = client.generate(
            prompt, seed=number, variant=variant, num_inference_steps=steps, cache="off", lora=lora or None
        ).outcome
        at_once = all(use.joined_at == 0 for use in outcome.loras)
        return addons.Painted(outcome.timings_ms.denoise, outcome.timings_ms.total, at_once or not outcome.loras)

    return paint
