"""Who enters a contest, and how thresholds change while a server runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.fakes import picture
from underpaint.bench.demand.workload import WorkItem
from underpaint.bench.policies.arena import Entrant, Order, _contest, _Preparation, entrants, share_at_pace, uses_cache
from underpaint.bench.policies.contest import Contest, Pace, Slice
from underpaint.bench.serving.dials import DOORS, Dials, borrowed
from underpaint.client.pictures import Picture
from underpaint.policies import Calibration

A95, A98 = (Calibration("e", "s", "l", alpha) for alpha in (0.95, 0.98))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for model in (*DOORS, "tiny-l_unet"):
        (tmp_path / "original" / model / "1").mkdir(parents=True)
        (tmp_path / "original" / model / "1" / "model.py").write_text("pass\n")
    return tmp_path / "original"


def test_calibrations_make_entrants_of_policies_that_go_by_them() -> None:
    assert entrants(["vanilla", "modm"], []) == [Entrant("vanilla", "vanilla"), Entrant("modm", "modm")]
    assert entrants(["vanilla", "modm", "small"], [A98, A95]) == [
        Entrant("vanilla", "vanilla"),
        Entrant("modm", "modm", A98),
        Entrant("small", "small"),
        Entrant("modm α=0.95", "modm", A95),
    ]
    assert uses_cache("nirvana") and not uses_cache("vanilla") and not uses_cache("random-mix")


def test_a_borrowed_repository_leaves_the_original_alone(repository: Path) -> None:
    with borrowed(repository) as copy:
        assert (copy / "tiny-l_unet").is_symlink() and (copy / "tiny-l_unet" / "1" / "model.py").is_file()
        assert not (copy / "generate").is_symlink()
        Dials(copy, "tiny-s", wait=lambda seconds: None).calibrate(A98)
        assert all(Calibration.load(copy / door / "1") == A98 for door in DOORS)
    assert not copy.exists() and not list(repository.rglob("calibration.json"))
    assert (repository / "tiny-l_unet" / "1" / "model.py").is_file()


def test_turning_a_dial_waits_until_it_is_noticed_but_only_then(repository: Path) -> None:
    waited: list[float] = []
    dials = Dials(repository, "tiny-s", waited.append)
    for calibration in (A98, A98, A95):
        dials.calibrate(calibration)
    for share in (0.5, 0.5):
        dials.share(share)
    assert len(waited) == 3
    assert json.loads((repository / "generate" / "1" / "settings.json").read_text()) == {
        "small": "tiny-s",
        "small_share": 0.5,
    }


def test_a_random_mix_is_as_fast_as_modm_was_in_its_latest_slice(repository: Path) -> None:
    order = Order(tuple(entrants(["modm", "random-mix"], [])), 1, 0, 0, Pace())
    prepare = _Preparation(order, Dials(repository, "tiny-s", wait=lambda seconds: None), small_cost=0.2)
    settings = repository / "generate" / "1" / "settings.json"
    prepare("random-mix", Contest(["modm"]))
    assert "small_share" not in json.loads(settings.read_text())
    prepare("random-mix", Contest(["modm"], [Slice("vanilla", 9, 4.0, 0, 1), Slice("modm", 9, 8.0, 1, 2)]))
    # 0.625 of the requests in a fifth of the time and the others in all of it take half the time.
    assert json.loads(settings.read_text())["small_share"] == 0.625
    slower = [Slice("modm", 9, 4.0, 1, 2), Slice("vanilla", 9, 4.0, 2, 3), Slice("modm", 9, 8.0, 3, 4)]
    prepare("random-mix", Contest(["modm"], [Slice("vanilla", 9, 4.0, 0, 1), *slower]))
    assert json.loads(settings.read_text())["small_share"] == 0.625


def test_a_share_stays_a_share() -> None:
    assert share_at_pace(9.0, 0.2) == 1.0 and share_at_pace(0.8, 0.2) == 0.0 and share_at_pace(2.0, 1.1) == 1.0


def test_where_the_server_is_not_ours_nothing_is_set() -> None:
    order = Order((Entrant("modm", "modm", A98),), 1, 0, 0, Pace())
    _Preparation(order, None, 0.2)("modm", Contest(["modm"]))


def test_caches_are_warmed_with_what_came_before(repository: Path) -> None:
    painted: list[tuple[str, str, int]] = []

    def paint(policy: str, name: str, work: WorkItem) -> Picture:
        painted.append((policy, name, work.index))
        return picture(work, policy)

    entered = tuple(entrants(["vanilla", "modm"], [A98, A95]))
    order = Order(entered, requests=4, seed=0, warm=3, pace=Pace(concurrency=2, slice_rounds=2, settle_s=0))
    contest = _contest(order, paint, _Preparation(order, Dials(repository, "tiny-s", lambda s: None), 0.2))
    assert [each.item.index for each in contest.images_of("modm")] == [3, 4, 5, 6]
    for name in ("modm", "modm α=0.95"):
        assert sorted(index for policy, entrant, index in painted if entrant == name) == list(range(7))
    assert {policy for policy, entrant, _ in painted if entrant == "modm α=0.95"} == {"modm"}
    assert sorted(index for policy, _, index in painted if policy == "vanilla") == [3, 3, 4, 4, 5, 5, 6, 6]
