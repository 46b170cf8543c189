"""``underpaint bench loras``: options, a server of its own with a small store of LoRAs, and the report."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from underpaint.addons.layout import LoraLayout
from underpaint.addons.location import VARIABLE
from underpaint.bench.addons import loras
from underpaint.bench.addons.costs import write_random_loras
from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.report import about, leave
from underpaint.bench.serving.site import PATIENCE_S, site
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.errors import InvalidArgument
from underpaint.monitor.metrics import Endpoint, Sample

_METRICS = "underpaint_denoiser_lora_"
_METRICS_AFTER_S = 2.5  # they are sent once a second


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("loras", help="many LoRAs, few of them in memory", description=loras.__doc__)
    parser.add_argument("--variant", help="default: the first that takes LoRAs")
    parser.add_argument("--requests", type=int, default=1000, help="default: 1000")
    parser.add_argument("--loras", type=int, default=200, help="how many there are (default: 200)")
    parser.add_argument("--memory-mb", type=float, default=16.0, help="for LoRAs in memory (default: 16)")
    parser.add_argument("--at-once", type=int, default=16, help="requests (default: 16)")
    options.add_report(parser)
    options.add_repository(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, requests=1, loras=1, at_once=1)
    variant = args.variant or _first_with_loras(args.model_repository)
    layout = LoraLayout.load(args.model_repository / f"{variant}_unet" / "1")
    machine = Machine.watched()
    with tempfile.TemporaryDirectory(prefix="underpaint-loras-") as folder:
        store, repository = Path(folder) / "lora", Path(folder) / "model_repository"
        names = write_random_loras(store, layout, args.loras, loras.RANKS)
        on_disk = sum(path.stat().st_size for path in store.iterdir())
        print(f"{len(names)} LoRAs, {on_disk / 2**20:.0f} MB; {args.memory_mb:g} MB of memory for them")
        shutil.copytree(args.model_repository, repository, ignore=shutil.ignore_patterns("__pycache__"))
        _give_memory(repository / f"{variant}_denoiser" / "config.pbtxt", args.memory_mb)
        os.environ[VARIABLE] = str(store)  # of this process and its server alone
        with site(repository) as served, Client(served.url, timeout_s=PATIENCE_S) as client:
            client.wait_ready()
            trial = loras.run(
                _painter(client, variant),
                loras.wishes(names, args.requests),
                args.at_once,
                lambda s: print(s, flush=True),
            )
            time.sleep(_METRICS_AFTER_S)
            report = _report(args, trial, variant, on_disk, Endpoint(served.metrics_url).fetch(within_s=10.0))
    report |= about(machine)
    print(_summary(report))
    leave(report, args.json)
    return 0


def _first_with_loras(repository: Path) -> str:
    able = [name for name, each in deployment_of(repository).variants.items() if each.loras]
    if not able:
        raise InvalidArgument.of("model-repository", str(repository), "one with a variant that takes LoRAs")
    return able[0]


def _give_memory(config: Path, megabytes: float) -> None:
    """As an operator would, in the denoiser's config.pbtxt."""
    setting = r'(key: "lora_memory_mb"\s*value \{\s*string_value: )"[^"]*"'
    changed, count = re.subn(setting, rf'\1"{megabytes}"', config.read_text())
    if count != 1:
        raise InvalidArgument.of(str(config), f"{count} settings of lora_memory_mb", "one")
    config.write_text(changed)


def _painter(client: Client, variant: str) -> loras.Paint:
    def paint(number: int, wanted: Sequence[str]) -> loras.Answer:
        prompt, lora = PROMPTS[number % len(PROMPTS)], ",".join(wanted) or None
        outcome = client.generate(prompt, seed=number, variant=variant, cache="off", lora=lora).outcome
        joined = tuple(use.joined_at for use in outcome.loras)
        return loras.Answer(joined, outcome.timings_ms.held, outcome.timings_ms.total)

    return paint


def _report(
    args: argparse.Namespace, trial: loras.Trial, variant: str, on_disk: int, metrics: Sample
) -> dict[str, Any]:
    counters = {
        name: int(metrics.total(f"{_METRICS}{name}_total")) for name in ("loads", "hits", "evictions", "failures")
    }
    return {
        **loras.to_json(trial),
        "store": {
            **counters,
            "most_mb": round(metrics.total(f"{_METRICS}most_bytes") / 2**20, 2),
            "allowed_mb": args.memory_mb,
        },
        "loras": args.loras,
        "on_disk_mb": round(on_disk / 2**20, 1),
        "at_once": args.at_once,
        "variant": variant,
    }


def _summary(report: dict[str, Any]) -> str:
    store, held = report["store"], report["held"]
    return (
        f"{report['requests']} requests, {report['failures']} failed; {report['joined_at_0']['requests']} had their "
        f"LoRAs at step 0, {report['joined_late']['requests']} later; {held['requests']} were held {held['ms']} ms\n"
        f"store: at most {store['most_mb']} of {store['allowed_mb']} MB, {store['loads']} loads, {store['hits']} hits, "
        f"{store['evictions']} evictions, {store['failures']} failures"
    )
