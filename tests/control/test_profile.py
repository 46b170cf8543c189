"""Profiles survive their file, and say what is wrong with one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.control.artifacts import DATA, needs_data
from underpaint.control.profile import Costs, Latency, Profile, VariantProfile
from underpaint.control.published import PUBLISHED, published
from underpaint.deployment import Deployment, Variant
from underpaint.errors import InvalidArgument, NotFound

VARIANT = VariantProfile("small", 4, (Latency(1, 0.1, 0.1, 0.12, 0.2), Latency(4, 0.3)), load_s=1.0, weights="aa")
PROFILE = Profile("ours", (VARIANT, replace(VARIANT, name="large", weights="bb")), Costs(router_s=0.001), machine="cpu")


def deployment(**weights: str) -> Deployment:
    variants = {n: Variant(n, 4, 8, 1.0, 2.0, ((64, 64),), ("ddim",), 16, weights=w) for n, w in weights.items()}
    return Deployment("tiny", variants, small="small", large="large")


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "hadis-726"])
def test_a_profile_survives_its_file(name: str, tmp_path) -> None:
    profile = published(name)
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile


def test_seconds_of_a_batch_that_was_not_measured_lie_between_those_that_were() -> None:
    assert VARIANT.seconds(1) == 0.1
    assert VARIANT.seconds(2) == pytest.approx(0.1 + 0.2 / 3)
    assert VARIANT.seconds(8) == pytest.approx(0.6)


def test_the_profile_of_what_runs_here_fits() -> None:
    assert PROFILE.misfits(deployment(small="aa", large="bb"), "cpu") == []


def test_another_machine_other_weights_and_missing_variants_are_named() -> None:
    found = PROFILE.misfits(deployment(small="aa", large="other"), "another cpu")
    assert len(found) == 2 and "another cpu" in found[0] and "weights of large" in found[1]
    lonely = replace(PROFILE, variants=(VARIANT,))
    assert "knows nothing of large" in lonely.misfits(deployment(small="aa", large="bb"), "cpu")[0]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("variants", 0, "latencies", 0, "mean_s"), -1, "mean_s"),
        (("variants", 0, "latencies", 0, "mean_s"), "fast", "mean_s"),
        (("variants", 0, "latencies", 1, "batch"), 1, "latencies"),
        (("variants", 0, "load_s"), float("nan"), "load_s"),
        (("variants", 1, "name"), "small", "variants"),
        (("costs",), {"router": 1}, "router"),
        (("costs",), {"router_s": True}, "router_s"),
        (("cascades",), [{"small": "no", "large": "large", "direct": 0, "deferred": 0, "loss": 0}], "variant"),
        (("cascades",), [{"small": "small", "large": "large", "direct": 2, "deferred": 0, "loss": 0}], "direct"),
        (("cascades",), 7, "cascades"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_broken_profile_is_refused_by_name(path, value, named, tmp_path) -> None:
    raw = json.loads(PROFILE.to_json())
    at = raw
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(InvalidArgument, match=named):
        Profile.load(file)


def test_what_is_no_file_and_what_is_no_json(tmp_path) -> None:
    with pytest.raises(NotFound):
        Profile.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InvalidArgument, match="JSON"):
        Profile.load(tmp_path / "bad.json")
    with pytest.raises(InvalidArgument, match="diffserve-1"):
        published("unknown")


@needs_data
@pytest.mark.parametrize("name", ["diffserve-1", "diffserve-2"])
def test_written_points_of_the_deferral_curve_are_those_of_the_scores(name: str) -> None:
    coarse, exact = published(name).deferrals[0], published(name, DATA).deferrals[0]
    for t, share in zip(coarse.thresholds, coarse.shares, strict=True):
        assert exact.share(t) == pytest.approx(share, abs=6e-4)


@needs_data
def test_the_pareto_rows_are_among_all_configurations() -> None:
    profiled = {
        (row.small, row.large, row.direct, row.deferred): row.loss for row in published("hadis-726", DATA).cascades
    }
    assert len(profiled) == 726
    for row in published("hadis").cascades:
        assert profiled[row.small, row.large, row.direct, row.deferred] == pytest.approx(row.loss, abs=0.006)
