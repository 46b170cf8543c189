"""The command ``underpaint bench routing``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from underpaint.bench.common import options
from underpaint.bench.common.machine import Machine
from underpaint.bench.common.patience import insist
from underpaint.bench.common.progress import Progress
from underpaint.bench.common.report import about, leave
from underpaint.bench.demand.load import work_off
from underpaint.bench.serving.site import PATIENCE_S, needs_extra, server
from underpaint.client.serving import deployment_of
from underpaint.client.sync_client import Client
from underpaint.deployment import Deployment
from underpaint.errors import Unsupported

if TYPE_CHECKING:
    from underpaint.bench.cascades.routing import Examined
    from underpaint.build.tiny.scenes import Scene

_CONCURRENCY = 16
_FIRST_SEED = 9_000_000  # of the pictures, which nobody has learnt from


def add_parser(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = benches.add_parser(
        "routing",
        help="how well router and discriminator foresee the small variant's failures",
        description="Has both variants of the cascade paint captions that neither scorer has seen, has the judge read "
        "the pictures, and compares deferral by score with random and with ideal deferral. Five minutes on two cores.",
    )
    bench.add_argument("--captions", type=int, default=1000, metavar="N", help="default: 1000")
    options.add_report(bench)
    bench.add_argument("--plot", type=Path, metavar="FILE.png", help="draw quality against deferral")
    options.add_server(bench)
    bench.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    options.at_least(args, captions=10)
    deployment = deployment_of(args.model_repository)
    if deployment.router is None or deployment.discriminator is None:
        raise Unsupported(f"{args.model_repository} has no router and discriminator; run `underpaint train tiny`")
    with needs_extra():
        from underpaint.bench.cascades import routing
        from underpaint.build.tiny.routing_data import Share, scenes_of
    machine = Machine.watched()
    scenes = list(itertools.islice(scenes_of(Share.EXAMINATION), args.captions))
    examined = _examine(args, deployment, scenes)
    report = {**routing.to_json(examined), "small": deployment.small, "large": deployment.large}
    print(routing.text(report))
    leave({**report, **about(machine)}, args.json)
    if args.plot:
        from underpaint.bench.cascades.routing_plot import quality_by_deferral

        quality_by_deferral(report, args.plot)
        print(f"plot: {args.plot}")
    return 0


def _examine(args: argparse.Namespace, deployment: Deployment, scenes: Sequence[Scene]) -> Examined:
    from underpaint.bench.cascades.routing import Examined, Quality
    from underpaint.bench.judging.clip import Clip
    from underpaint.bench.judging.scores import Scores
    from underpaint.build.tiny.routing_data import captions_of

    captions = captions_of(scenes)
    pictures = _paint(args, deployment, captions)
    clip = Clip(args.model_repository, deployment.family)
    texts = clip.texts(captions)
    judged = {name: _judge(pictures[name], scenes, name) for name in pictures}
    agreement = {name: np.einsum("nd,nd->n", clip.images(images), texts) for name, images in pictures.items()}
    scores = Scores(args.model_repository, deployment.family)

    def quality(of: dict[str, np.ndarray]) -> Quality:
        return Quality(of[deployment.small].astype(float), of[deployment.large].astype(float))

    return Examined(
        difficulty=scores.difficulty(captions),
        confidence=scores.confidence(captions, pictures[deployment.small]),
        faultless=quality({name: faultless for name, (faultless, _) in judged.items()}),
        accuracy=quality({name: accuracy for name, (_, accuracy) in judged.items()}),
        clip=quality(agreement),
    )


def _paint(args: argparse.Namespace, deployment: Deployment, captions: Sequence[str]) -> dict[str, np.ndarray]:
    """What the server paints of each caption by default, uint8 [N, H, W, 3] by variant; both with the same seeds."""
    variants = (deployment.small, deployment.large)
    painted: dict[str, dict[int, np.ndarray]] = {variant: {} for variant in variants}
    progress = Progress(2 * len(captions), "picture")
    with server(args.url, args.model_repository) as url, Client(url, timeout_s=PATIENCE_S) as client, progress:
        client.wait_ready()

        def one(number: int) -> None:
            variant, place = variants[number % 2], number // 2
            painted[variant][place] = insist(lambda: _picture(client, variant, captions[place], _FIRST_SEED + place))
            progress.advance()

        work_off(one, 2 * len(captions), _CONCURRENCY)
    return {name: np.stack([images[place] for place in range(len(captions))]) for name, images in painted.items()}


def _picture(client: Client, variant: str, caption: str, seed: int) -> np.ndarray:
    return client.generate(caption, seed=seed, variant=variant, policy="vanilla", cache="off").image


def _judge(pictures: np.ndarray, scenes: Sequence[Scene], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each is without fault, and the share of what was told that it shows."""
    from underpaint.bench.judging.quality import attribute_accuracy, read_all

    verdicts = read_all(pictures, scenes, name)
    return np.array([each.all_right for each in verdicts]), np.array([attribute_accuracy(each) for each in verdicts])
