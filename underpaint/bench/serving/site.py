"""What the benches serve with: a running server, or one of their own with an empty cache."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from underpaint.bench.common.patience import insist
from underpaint.bench.common.processor import Seconds, processor_s
from underpaint.bench.demand.workload import WorkItem
from underpaint.cache.location import VARIABLE
from underpaint.client.pictures import Picture
from underpaint.client.prompts import PROMPTS
from underpaint.client.serving import embedded
from underpaint.client.sync_client import Client
from underpaint.errors import Unsupported

Paint = Callable[[str, str, WorkItem], Picture]  # under a policy, for a name, a request
PATIENCE_S = 300.0  # a request that takes longer will never come


@contextmanager
def server(url: str | None, repository: Path) -> Iterator[str]:
    """The address of the running server, or of one that is started on ``repository`` with a store of its own."""
    with stage(url, repository) as (address, _):
        yield address


@contextmanager
def stage(url: str | None, repository: Path) -> Iterator[tuple[str, Site | None]]:
    """The same, with all that is known of a server that is our own."""
    if url:
        yield url, None
        return
    with site(repository) as own:
        yield own.url, own


@dataclass(frozen=True)
class Site:
    """A server of the bench's own: its addresses, and the folder of its store, where its settings lie.

    ``processor``: see ``common.processor``.
    """

    url: str
    http_url: str
    metrics_url: str
    store: Path
    processor: Callable[[], Seconds] = dict


@contextmanager
def site(repository: Path) -> Iterator[Site]:
    """A server that is started on ``repository``, with a store that goes with it."""
    store = tempfile.TemporaryDirectory(prefix="underpaint-bench-")
    with store as folder, _environment(VARIABLE, folder), embedded(repository) as own:
        yield Site(own.grpc_url, own.http_url, own.metrics_url, Path(folder), lambda: processor_s(own.pid))


def painter(client: Client) -> Paint:
    """Serves requests, each name with a cache of its own that nobody has used before."""
    run = secrets.token_hex(4)

    def paint(policy: str, name: str, item: WorkItem) -> Picture:
        tenant = f"bench-{run}-{re.sub('[^A-Za-z0-9._-]', '', name)}"
        return client.generate(item.caption, seed=item.seed, policy=policy, tenant=tenant)

    return paint


def variant_painter(client: Client) -> Callable[[str, int], Picture]:
    """Paints from noise with a variant; the picture is given a running number."""

    def paint(variant: str, number: int) -> Picture:
        prompt = PROMPTS[number % len(PROMPTS)]
        return insist(lambda: client.generate(prompt, seed=number, variant=variant, policy="vanilla", cache="off"))

    return paint


@contextmanager
def needs_extra() -> Iterator[None]:
    """What benches import when they run; a package that is missing is named."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("underpaint"):
            raise  # a defect of ours
        raise Unsupported(f"needs {error.name}: pip install 'underpaint[bench]'") from None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
