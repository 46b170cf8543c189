"""Who is given the version on trial: a share of all seeds, always the same ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpaint.errors import InvalidArgument
from underpaint.releases import FILE_NAME, Rollout, component
from underpaint.requests import MAX_SEED, GenerateRequest

ROLLOUT = Rollout("tiny", 2, 10)


def request(seed: int, **wishes: str) -> GenerateRequest:
    return GenerateRequest("a circle", seed=seed, **wishes)


@pytest.mark.parametrize("percent", [0, 0.5, 10, 50, 99.9, 100])
def test_the_share_is_what_was_asked_for(percent: float) -> None:
    rollout, seeds = replace(ROLLOUT, percent=percent), range(20_000)
    taken = sum(rollout.takes(request(seed)) for seed in seeds) / len(seeds) * 100
    assert taken == pytest.approx(percent, abs=4 * (percent * (100 - percent) / len(seeds)) ** 0.5)


@given(st.integers(0, MAX_SEED), st.floats(0, 100), st.floats(0, 100))
def test_who_has_met_the_candidate_stays_with_it_as_its_share_grows(seed: int, one: float, other: float) -> None:
    less, more = (replace(ROLLOUT, percent=percent).takes(request(seed)) for percent in sorted((one, other)))
    assert more or not less


def test_another_rollout_draws_other_seeds() -> None:
    first, second = (
        {s for s in range(2000) if replace(ROLLOUT, percent=50, candidate=n).takes(request(s))} for n in (2, 3)
    )
    assert 400 < len(first & second) < 600


def test_a_reproducible_request_moves_last() -> None:
    seeds = [seed for seed in range(100) if replace(ROLLOUT, percent=99).takes(request(seed, cache="reproducible"))]
    assert seeds == []
    assert replace(ROLLOUT, percent=100).takes(request(1, cache="reproducible"))


def test_a_rollout_comes_back_from_its_file(tmp_path: Path) -> None:
    assert Rollout.load(tmp_path) is None
    (tmp_path / FILE_NAME).write_text(ROLLOUT.to_json())
    assert Rollout.load(tmp_path) == ROLLOUT


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "rollout.json: "),
        ("[]", "allowed: a JSON object of candidate, family, percent"),
        ('{"family": "tiny", "candidate": 2}', "allowed: a JSON object of candidate, family, percent"),
        ('{"family": "tiny", "candidate": 0, "percent": 1}', "candidate: got 0; allowed: a version, 1 or more"),
        ('{"family": "tiny", "candidate": "2", "percent": 1}', "candidate: got '2'"),
        ('{"family": "tiny", "candidate": 2, "percent": 101}', "percent: got 101; allowed: 0 to 100"),
        ('{"family": "", "candidate": 2, "percent": 1}', "family: got ''"),
    ],
)
def test_a_file_that_makes_no_sense_is_named_with_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        Rollout.load(tmp_path)
    assert complaint in str(caught.value)


def test_a_component_is_named_with_its_version() -> None:
    assert component("tiny-l", "vae_decoder", 1) == "tiny-l_vae_decoder:1"
    assert component("tiny-l@2", "vae_decoder", 2) == "tiny-l_vae_decoder:2"
