"""Versions of a family: what their models are called while two of them serve, and who gets which.

Version N of a model lies in its directory ``N``, as Triton wants it, and ``version_policy`` says which are loaded. Of a
model whose config.pbtxt names other models (ensembles, denoisers, twins) that is not enough, since all versions of a
model share its config: while a second version serves, it has a copy of its own, called ``<variant>@<version>…``. No
recipe can have a name with an ``@`` in it.

Which version is the family's own stands in ``deployment.json``; that another one is on trial, and for whom, in
``rollout.json`` of the store, which front doors read again when it changes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from underpaint.errors import InvalidArgument
from underpaint.requests import GenerateRequest

FILE_NAME = "rollout.json"
_BUCKETS = 2**64


@dataclass(frozen=True)
class Rollout:
    """Version ``candidate`` of ``family`` gets ``percent`` of the requests."""

    family: str
    candidate: int
    percent: float

    def __post_init__(self) -> None:
        if type(self.family) is not str or not self.family:
            raise InvalidArgument.of("rollout: family", self.family, "the name of a family")
        if type(self.candidate) is not int or self.candidate < 1:
            raise InvalidArgument.of("rollout: candidate", self.candidate, "a version, 1 or more")
        if type(self.percent) not in (int, float) or not 0 <= self.percent <= 100:
            raise InvalidArgument.of("rollout: percent", self.percent, "0 to 100")

    def takes(self, request: GenerateRequest) -> bool:
        """Whether the candidate serves a request, whose seed has been drawn.

        The seed alone decides: a request that is sent again meets the same version, and whoever has met the candidate
        stays with it as ``percent`` grows. Each rollout draws other seeds, lest the same callers try everything first.
        A reproducible request stays with what it knows, until there is nothing else.
        """
        if request.reproducible and self.percent < 100:
            return False
        digest = hashlib.sha256(f"{self.family}@{self.candidate} {request.seed}".encode()).digest()
        return int.from_bytes(digest[:8]) < self.percent / 100 * _BUCKETS

    def to_json(self) -> str:
        """The text of ``rollout.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, store: Path) -> Rollout | None:
        """Read ``rollout.json`` of a store; None where there is none.

        Raises:
            InvalidArgument: it makes no sense.
        """
        path = store / FILE_NAME
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{path}: {error}") from None
        names = {each.name for each in fields(cls)}
        if not isinstance(raw, dict) or set(raw) != names:
            raise InvalidArgument(f"{path}: allowed: a JSON object of {', '.join(sorted(names))}")
        try:
            return cls(**raw)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error}") from None


def suffix_of(version: int) -> str:
    """Behind a variant's name in those of its models, while ``version`` serves beside another one."""
    return f"@{version}"


def component(painter: str, part: str, version: int) -> str:
    """A model that a painter's version has in a directory: ``tiny-l@2`` and ``vae_decoder`` make
    ``tiny-l_vae_decoder:2``, as perf_analyzer writes a model of a given version."""
    return f"{painter.partition('@')[0]}_{part}:{version}"
