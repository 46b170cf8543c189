"""A deployment survives its file, fills up a request with defaults and holds it to the variant's limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underpaint.deployment import FILE_NAME, Deployment, Sampling, Variant
from underpaint.errors import InvalidArgument
from underpaint.requests import MAX_SEED, GenerateRequest

VARIANT = Variant(
    name="wide",
    num_inference_steps=20,
    max_inference_steps=50,
    guidance_scale=3.0,
    max_guidance_scale=12.5,
    sizes=((64, 32), (32, 64)),
    schedulers=("ddim", "euler"),
    prompt_tokens=22,
)
DEPLOYMENT = Deployment("two", {"wide": VARIANT, "other": replace(VARIANT, name="other")}, "other", "wide")

NAME = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
COUNT = st.integers(1, 1000)
VARIANTS = st.builds(
    Variant,
    name=NAME,
    num_inference_steps=COUNT,
    max_inference_steps=COUNT,
    guidance_scale=st.floats(0, 50),
    max_guidance_scale=st.floats(0, 50),
    sizes=st.lists(st.tuples(COUNT, COUNT), min_size=1, max_size=3).map(tuple),
    schedulers=st.lists(NAME, min_size=1, max_size=3).map(tuple),
    prompt_tokens=COUNT,
)


def sampling(**wishes: object) -> Sampling:
    return DEPLOYMENT.sampling(GenerateRequest.parse({"prompt": "a circle", **wishes}), VARIANT)


@settings(max_examples=40, deadline=None)
@given(NAME, st.lists(VARIANTS, min_size=1, max_size=3, unique_by=lambda v: v.name), NAME)
def test_a_deployment_comes_back_from_its_file(
    tmp_path_factory: pytest.TempPathFactory, family: str, variants: list[Variant], policy: str
) -> None:
    written = Deployment(family, {v.name: v for v in variants}, variants[0].name, variants[-1].name, policy)
    folder = tmp_path_factory.mktemp("version")
    (folder / FILE_NAME).write_text(written.to_json())
    read = Deployment.load(folder)
    assert read == written
    assert list(read.variants) == list(written.variants)  # their order is the one that errors list them in


def test_the_file_is_what_people_read_and_edit(tmp_path: Path) -> None:
    raw = json.loads(DEPLOYMENT.to_json())
    assert [v["name"] for v in raw["variants"]] == ["wide", "other"]
    raw["variants"][0]["max_inference_steps"] = 60
    (tmp_path / FILE_NAME).write_text(json.dumps(raw))
    assert Deployment.load(tmp_path).variant("wide") == replace(VARIANT, max_inference_steps=60)


def test_defaults_fill_up_what_is_left_open() -> None:
    got = sampling()
    assert replace(got, seed=0) == Sampling(20, 3.0, "ddim", 64, 32, 0)


def test_wishes_are_kept() -> None:
    got = sampling(num_inference_steps=7, guidance_scale=1.5, scheduler="euler", width=32, height=64, seed=MAX_SEED)
    assert got == Sampling(7, 1.5, "euler", 32, 64, MAX_SEED)


def test_guidance_0_is_a_wish_and_not_the_default() -> None:
    assert sampling(guidance_scale=0).guidance_scale == 0.0


def test_seed_0_is_a_wish_and_not_chance() -> None:
    assert [sampling(seed=0).seed for _ in range(3)] == [0, 0, 0]


def test_the_limits_themselves_are_allowed() -> None:
    got = sampling(num_inference_steps=50, guidance_scale=12.5)
    assert (got.num_inference_steps, got.guidance_scale) == (50, 12.5)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_inference_steps", 51, "1 to 50 with wide"),
        ("guidance_scale", 12.6, "0 to 12.5 with wide"),
        ("scheduler", "flow_match_euler", "ddim, euler with wide"),
        ("width", 65, "64x32, 32x64 with wide"),
        ("height", 64, "64x32, 32x64 with wide"),  # for the default width of 64
    ],
)
def test_beyond_the_limits_is_refused_by_name(name: str, value: object, allowed: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        sampling(**{name: value})
    assert name in str(caught.value).partition(":")[0]
    assert str(caught.value).endswith(f"allowed: {allowed}")


def test_drawn_seeds_are_small_enough_for_every_client_and_differ() -> None:
    seeds = {sampling().seed for _ in range(200)}
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert max(seeds) >= 2**31  # or it would be half the range (chance of failing by itself: 2**-200)
    assert len(seeds) > 190


def test_an_unknown_variant_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(InvalidArgument, match=r"^variant: got 'huge'; allowed: wide, other$"):
        DEPLOYMENT.variant("huge")
    assert DEPLOYMENT.variant("wide") is VARIANT


def test_a_refinement_has_a_run_of_its_own() -> None:
    finer = replace(VARIANT, refine_steps=12)
    request = GenerateRequest("a disc")
    assert DEPLOYMENT.sampling(request, finer, refining=True).num_inference_steps == 12
    assert DEPLOYMENT.sampling(request, finer).num_inference_steps == finer.num_inference_steps
    assert finer.refinement_steps == 12 and replace(finer, refine_steps=0).refinement_steps == finer.num_inference_steps
