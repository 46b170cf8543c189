"""Thresholds as measured, with the hashes of what they were measured on.

Similarity scales differ wildly between embedders, and what a variant makes of an old image differs between variants;
so a calibration only speaks for the very weights that it names. It lies as ``calibration.json`` beside
``deployment.json``, written by ``underpaint calibrate``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument
from underpaint.policies.thresholds import NEVER, Threshold, Thresholds

FILE_NAME = "calibration.json"
OVER = ("hits", "requests")
_REMEDY = "run `underpaint calibrate`"


class BrokenCalibration(InvalidArgument):
    """calibration.json is there, but makes no sense."""


@dataclass(frozen=True)
class Calibration:
    """How similar is similar enough, for one embedder and one pair of variants.

    Attributes:
        embedder, small, large: hashes, as in the deployment that it was measured on; ``small`` is the refiner's.
        router, discriminator: the same, where ``hard`` says something; else empty.
        alpha: the share of full quality that is kept; ``over``: on every hit, or by all requests together.
        modm: image similarity to share of the refiner's steps that a refinement of the image may skip.
        modm_text: the same by text similarity.
        nirvana: text similarity to share of the large variant's steps that a resumed trajectory may skip.
        retrieval: text similarity from which an image is as good as new; a single row, which skips everything.
        hard: by table, ``modm`` or ``modm_text``, the router's score from which the large variant paints what nothing
            similar was found for; below, the small one does. Where a table is missing, the large one paints them all.
        measured_at: ISO 8601 date and time; ``measured_on``: the machine, in words.
    """

    embedder: str
    small: str
    large: str
    alpha: float
    modm: Thresholds = NEVER
    modm_text: Thresholds = NEVER
    nirvana: Thresholds = NEVER
    retrieval: Thresholds = NEVER
    hard: Mapping[str, float] = field(default_factory=dict)
    router: str = ""
    discriminator: str = ""
    over: str = OVER[0]
    measured_at: str = ""
    measured_on: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise InvalidArgument.of("alpha", self.alpha, "a share of full quality, above 0 and up to 1")
        if self.over not in OVER:
            raise InvalidArgument.of("over", self.over, ", ".join(OVER))
        for name, score in self.hard.items():
            if name not in _TABLES or not 0 <= score <= 1:
                raise InvalidArgument.of("hard", {name: score}, f"a probability for {', '.join(_TABLES)}")

    def table(self, name: str) -> Thresholds:
        """Of a system, by its name."""
        found: Thresholds = getattr(self, name)
        return found

    def misfit(self, deployment: Deployment) -> str:
        """Why this does not speak for ``deployment``; empty where it does."""
        scorers = {"router": deployment.router, "discriminator": deployment.discriminator} if self.hard else {}
        pairs = {
            "embedder": (self.embedder, deployment.embedder),
            "small variant, the refiner": (self.small, deployment.variant(deployment.refiner).weights),
            "large variant": (self.large, deployment.variant(deployment.large).weights),
            **{name: (getattr(self, name), scorer.weights if scorer else "") for name, scorer in scorers.items()},
        }
        for part, (measured, deployed) in pairs.items():
            if not deployed:
                return f"the deployment does not say which {part} it has; run `underpaint render`"
            if measured != deployed:
                return f"{FILE_NAME} was measured with another {part} ({measured}, here {deployed}); {_REMEDY}"
        return ""

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Read ``calibration.json`` from a model's version directory; None where there is none.

        Raises:
            BrokenCalibration: it cannot be read or is not JSON, a name is missing or unknown, a value is not allowed.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError, InvalidArgument) as error:
            raise BrokenCalibration(f"{path}: {error}; {_REMEDY}") from None

    def save(self, folder: Path) -> Path:
        """Write ``calibration.json`` into a folder; whoever reads it meanwhile sees the old file or the new one."""
        path = folder / FILE_NAME
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(self.to_json(), encoding="utf-8")
        return unfinished.replace(path)

    def to_json(self) -> str:
        """The text of ``calibration.json``."""
        tables = {name: [asdict(row) for row in self.table(name).rows] for name in _TABLES}
        return json.dumps({**asdict(self), **tables}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """What :meth:`to_json` wrote."""
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise InvalidArgument.of("calibration", raw, "a JSON object")
        _check_names(raw)
        tables = {name: _table(raw[name]) for name in _TABLES if name in raw}
        return cls(**{**raw, **tables})


def problem(calibration: Calibration | None, deployment: Deployment) -> str:
    """Why the cache cannot be read from in this deployment; empty where it can."""
    if not deployment.embedder:
        return "the deployment has no embedders"
    return f"there is no {FILE_NAME}; {_REMEDY}" if calibration is None else calibration.misfit(deployment)


_TABLES = tuple(f.name for f in fields(Calibration) if f.type == "Thresholds")


def _table(rows: Any) -> Thresholds:
    return Thresholds(tuple(Threshold(float(row["similarity"]), float(row["skip"])) for row in rows))


def _check_names(raw: Mapping[str, Any]) -> None:
    known = {f.name: f for f in fields(Calibration)}
    for name in raw.keys() - known.keys():
        raise InvalidArgument.of("name", name, ", ".join(known))
    for name in (n for n, f in known.items() if f.default is MISSING and n not in raw):
        raise InvalidArgument.of(name, None, "a value")
