"""Profiles: what allocators and the simulator know of a deployment, as measured (`underpaint profile`) or published.

A profile is one JSON file. It names the machine and the weights that it was measured on, since it speaks for nothing
else; ``Profile.misfits`` says where that is not what runs here.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from underpaint.control.curves import Cascade, Deferral, Mix, interpolate
from underpaint.control.plain import build
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument, NotFound


@dataclass(frozen=True)
class Latency:
    """What ``batch`` images of one variant take together, in seconds; percentiles where they were measured.

    ``cpu_s``: processor-seconds that one of them costs, of all processes that take part; None where nobody looked.
    """

    batch: int
    mean_s: float
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    cpu_s: float | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InvalidArgument.of("batch", self.batch, "1 or more")
        for name in ("mean_s", "p50_s", "p95_s", "p99_s", "cpu_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidArgument.of(name, value, "seconds, above 0")

    @property
    def late_s(self) -> float:
        """What it takes when it is slow: the 95th percentile where there is one."""
        return self.p95_s or self.mean_s

    @property
    def images_per_s(self) -> float:
        return self.batch / self.mean_s

    @property
    def cores(self) -> float | None:
        """How many cores are busy meanwhile."""
        return None if self.cpu_s is None else self.cpu_s * self.images_per_s


@dataclass(frozen=True)
class VariantProfile:
    """One variant on one device.

    Attributes:
        latencies: by rising batch size.
        load_s: to bring it onto a device that held another variant.
        loss: how bad its images are when it paints them all, in the profile's unit; None where nobody measured it.
        weights: hash, as in the deployment; empty for published figures.
        spread: lone images' times as multiples of their mean, rising, at even ranks from the least to the most; empty
            where all take the same.
        yields: how much it slows down where more cores are wanted than there are: 1 in proportion, more where the
            others' long calls keep it waiting, less where it keeps them waiting.
    """

    name: str
    steps: int
    latencies: tuple[Latency, ...]
    load_s: float = 0.0
    loss: float | None = None
    weights: str = ""
    spread: tuple[float, ...] = ()
    yields: float = 1.0

    def __post_init__(self) -> None:
        batches = [each.batch for each in self.latencies]
        if not batches or batches != sorted(set(batches)):
            raise InvalidArgument.of(f"{self.name}: latencies", batches, "one for each batch size, rising")
        if not (math.isfinite(self.load_s) and self.load_s >= 0):
            raise InvalidArgument.of(f"{self.name}: load_s", self.load_s, "seconds, 0 or more")
        if not (math.isfinite(self.yields) and self.yields >= 0):
            raise InvalidArgument.of(f"{self.name}: yields", self.yields, "a factor, 0 or more")

    def within(self, limit_s: float) -> list[Latency]:
        """The batch sizes that take no longer than that."""
        return [each for each in self.latencies if each.late_s <= limit_s]

    def seconds(self, batch: int) -> float:
        """Mean seconds of a batch of any size: between measured sizes by a straight line, beyond them in proportion."""
        last = self.latencies[-1]
        if batch > last.batch:
            return last.mean_s * batch / last.batch
        return interpolate([each.batch for each in self.latencies], [each.mean_s for each in self.latencies], batch)

    @property
    def work_s(self) -> float:
        """Seconds of a device for an image, where it paints as many together as pay most."""
        return min(each.mean_s / each.batch for each in self.latencies)

    def cores(self, batch: int) -> float | None:
        """How many cores a batch of any size keeps busy; None where that is not known."""
        busy = [each.cores for each in self.latencies]
        known = [each for each in busy if each is not None]
        if len(known) < len(busy):
            return None
        return interpolate([each.batch for each in self.latencies], known, batch)


@dataclass(frozen=True)
class Costs:
    """Seconds of the small stages beside painting, for one image or prompt; 0 where there is no such model."""

    router_s: float = 0.0
    discriminator_s: float = 0.0
    embedder_s: float = 0.0
    vae_encoder_s: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidArgument.of(f"costs: {each.name}", value, "seconds, 0 or more")


@dataclass(frozen=True)
class Profile:
    """All that is known of a deployment.

    Attributes:
        variants: from the lightest to the heaviest.
        loss_is: what ``loss`` means everywhere in the profile; lower is better.
        slo_s: the promise that the figures were published with; 0 where there is none.
        shared: variants share all devices (one GPU, a few cores) instead of owning some of them each.
        step_batching: requests join and leave a batch between steps, instead of starting and ending together.
        cores: of each device; 0 where nobody counted.
        machine: what it was measured on, in words; source: where the figures are from.
    """

    name: str
    variants: tuple[VariantProfile, ...]
    costs: Costs = field(default_factory=Costs)
    cascades: tuple[Cascade, ...] = ()
    mixes: tuple[Mix, ...] = ()
    deferrals: tuple[Deferral, ...] = ()
    loss_is: str = ""
    slo_s: float = 0.0
    shared: bool = False
    step_batching: bool = False
    cores: int = 0
    machine: str = ""
    source: str = ""
    measured_at: str = ""

    def __post_init__(self) -> None:
        names = [each.name for each in self.variants]
        if not names or len(set(names)) < len(names):
            raise InvalidArgument.of("variants", names, "one or more, each once")
        pairs = {(row.small, row.large) for row in self.cascades} | {(mix.small, mix.large) for mix in self.mixes}
        for small, large in pairs:
            self.pair(small, large)

    def variant(self, name: str) -> VariantProfile:
        """The variant of that name, or InvalidArgument."""
        for each in self.variants:
            if each.name == name:
                return each
        raise InvalidArgument.of("variant", name, f"{', '.join(v.name for v in self.variants)} (profile {self.name})")

    def pair(self, small: str, large: str) -> tuple[VariantProfile, VariantProfile]:
        return self.variant(small), self.variant(large)

    @property
    def lightest(self) -> VariantProfile:
        return self.variants[0]

    @property
    def heaviest(self) -> VariantProfile:
        return self.variants[-1]

    def mix(self, small: str, large: str) -> Mix | None:
        return next((each for each in self.mixes if (each.small, each.large) == (small, large)), None)

    def deferral(self, small: str) -> Deferral | None:
        return next((each for each in self.deferrals if each.small == small), None)

    def misfits(self, deployment: Deployment, machine: str) -> list[str]:
        """Where this speaks of something else than what runs here, each in a sentence."""
        found = []
        if self.machine and self.machine != machine:
            found.append(f"profile {self.name} was measured on {self.machine}, and this is {machine}")
        for each in self.variants:
            deployed = deployment.variants.get(each.name)
            if deployed is None:
                found.append(f"profile {self.name} has a variant {each.name}, which is not deployed")
            elif each.weights and each.weights != deployed.weights:
                found.append(f"profile {self.name} was measured with other weights of {each.name}")
        missing = [name for name in deployment.variants if name not in {v.name for v in self.variants}]
        return found + [f"profile {self.name} knows nothing of {name}, which is deployed" for name in missing]

    # Files ------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """What :meth:`to_json` wrote. Raises InvalidArgument that names what is wrong."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise InvalidArgument.of("profile", str(error), "JSON") from None
        return build(cls, raw, "profile", {part.__name__: part for part in _PARTS})

    @classmethod
    def load(cls, path: Path) -> Profile:
        """
        Raises:
            NotFound: there is no such file.
            InvalidArgument: it is not a profile.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise NotFound(f"{path}: {error.strerror}") from None
        except (UnicodeDecodeError, InvalidArgument) as error:
            raise InvalidArgument(f"{path}: {error}") from None

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")


_PARTS = (Latency, VariantProfile, Costs, Cascade, Mix, Deferral)
