"""Allocators: the published forms against the papers' own numbers, HiGHS against enumeration, and the corrections."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.artifacts import DATA, needs_data
from tests.control.enumeration import least_loss
from underpaint.control.allocation import Allocation, Fleet, Form, Load, Queue, Reuse
from underpaint.control.allocators import ALLOCATORS, by_name
from underpaint.control.allocators.cascade import Batch, Option, Problem, Stage, solve, spread
from underpaint.control.allocators.diffserve import Diffserve
from underpaint.control.allocators.hadis import Hadis
from underpaint.control.allocators.modm import Mode, Modm, Work, throughput_target
from underpaint.control.allocators.proteus import Proteus
from underpaint.control.allocators.static import Static
from underpaint.control.curves import Cascade, Mix
from underpaint.control.profile import Costs, Latency, Profile, VariantProfile
from underpaint.control.published import published
from underpaint.errors import InvalidArgument

# Golden vectors -------------------------------------------------------------------------------------------------

# Demand (already inflated): highest threshold t and the share f(t) that it defers, 16 devices, empty queues.
_T = {
    "diffserve-1": "16 1.0 1.0, 20 .32 .81, 24 .23 .63, 28 .17 .539, 32 .115 .469, 40 .055 .371, 64 .01 .20",
    "diffserve-2": "16 1.0 1.0, 20 .375 .815, 24 .275 .672, 28 .235 .572, 32 .205 .505, 40 .145 .405, 64 .065 .25",
    "diffserve-3": "2 1.0 1.0, 4 .265 .656, 6 .145 .405, 8 .075 .272, 10 .045 .202, 12 .03 .152, 16 .015 .093, "
    "20 .005 .037",
}
DIFFSERVE = [(name, *map(float, row.split())) for name, rows in _T.items() for row in rows.split(", ")]
# Demand: FID, pair, θ, τ; 16 devices, 6 s, latencies as the planner rounds them.
_ROWS = (
    "1 19.29 2 3 .2 .5, 2 19.29 2 3 .2 .5, 4 19.29 2 3 .2 .5, 8 19.77 2 3 .2 0, 10 20.16 2 3 .1 0, "
    "12 20.50 1 2 .8 .6, 16 20.62 1 2 .6 .4, 20 20.98 1 2 .5 .2, 24 21.52 1 2 .1 .4, 32 22.37 1 2 0 .3, "
    "40 22.93 1 2 0 .2, 48 23.18 1 2 .1 .1, 56 23.85 1 2 0 .1, 64 23.85 1 2 0 .1, 72 24.88 0 1 .7 .1, "
    "100 24.88 0 1 .7 .1"
)
HADIS = [tuple(map(float, row.split())) for row in _ROWS.split(", ")]


@needs_data
@pytest.mark.parametrize(("name", "demand", "t", "share"), DIFFSERVE)
def test_diffserve_as_published(name: str, demand: float, t: float, share: float) -> None:
    profile = published(name, DATA)
    found = Diffserve(Form.PUBLISHED).allocate(Load(demand), profile, Fleet(16, profile.slo_s))
    assert found.feasible
    assert found.confidence == pytest.approx(t, abs=1e-9)
    assert found.deferred == pytest.approx(share, abs=6e-4)


@pytest.mark.parametrize(("demand", "fid", "small", "large", "direct", "deferred"), HADIS)
def test_hadis_as_published(
    demand: float, fid: float, small: float, large: float, direct: float, deferred: float
) -> None:
    profile = published("hadis")
    found = Hadis(Form.PUBLISHED).allocate(Load(demand), profile, Fleet(16, 6))
    assert found.loss == pytest.approx(fid)
    assert found.pair == (profile.variants[int(small)].name, profile.variants[int(large)].name)
    assert (found.direct, found.deferred) == (direct, deferred)


def test_modm_controller_as_published() -> None:
    """From 16 devices to 6, as the controller's constants make it: an undershoot, and half an hour to settle."""
    profile = published("modm")
    large, small = (each.latencies[0].images_per_s for each in (profile.heaviest, profile.lightest))
    load = Load(6 * large, reuse=Reuse(0.0))  # only misses, and throughput mode: the target would be all devices
    assert throughput_target(Work(1.0, 0.0, large, small), 16) == 16
    load = Load(1.0, reuse=_reuse_for_target(6, large, small))
    present: Allocation | None = None
    positions = []
    for _ in range(12):
        present = Modm(Form.PUBLISHED, Mode.THROUGHPUT).allocate(_scaled(load, 0.1), profile, Fleet(16, 183), present)
        positions.append(present.memory["position"])
    assert [round(each, 1) for each in positions[:6]] == [8.3, 5.2, 4.0, 3.8, 4.0, 4.4]
    assert positions[11] == pytest.approx(5.8, abs=0.05)


def _reuse_for_target(target: int, large: float, small: float, devices: int = 16) -> Reuse:
    """A hit rate with which throughput mode gives ``target`` devices to the large variant."""
    ratio = (devices - target) / target * small / large  # hits' work for each miss
    return Reuse(ratio / (1 + ratio), {0.0: 1.0})


def _scaled(load: Load, factor: float) -> Load:
    return replace(load, arrivals_per_s=load.arrivals_per_s * factor)


# HiGHS against enumeration --------------------------------------------------------------------------------------

latencies = st.lists(st.tuples(st.floats(0.05, 4), st.floats(0.1, 8)), min_size=1, max_size=4)
stages = st.builds(
    lambda rows, wait: Stage(tuple(Batch(2**n, s, r) for n, (s, r) in enumerate(rows)), wait),
    latencies,
    st.sampled_from([0.0, 0.5]),
)
loads = st.just(0.0) | st.floats(1e-3, 1)  # less than the solver's tolerance is nothing to it
options = st.lists(st.builds(Option, loads, loads, st.integers(10, 30).map(float)), min_size=1, max_size=12)
problems = st.builds(
    Problem,
    options=options.map(tuple),
    small=stages,
    large=stages,
    demand_per_s=st.just(0.0) | st.floats(0.1, 60),
    devices=st.integers(1, 20),
    slo_s=st.floats(0.5, 8),
    chained=st.booleans(),
    shared=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(problems)
def test_the_solver_finds_what_enumeration_finds(problem: Problem) -> None:
    found, expected = solve(problem), least_loss(problem)
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.loss == expected


@given(
    st.lists(st.integers(0, 6).map(float), min_size=2, max_size=2),
    st.lists(st.integers(0, 12).map(float), min_size=2, max_size=2),
)
def test_spare_devices_stay_where_they_are(needed: list[float], present: list[float]) -> None:
    given_out = spread(needed, present, 12)
    assert sum(given_out) == (12 if any(needed) or sum(present) >= 12 else pytest.approx(sum(given_out)))
    assert all(got >= need for got, need in zip(given_out, needed, strict=True))


# The corrected form ---------------------------------------------------------------------------------------------

FLEET = Fleet(16, 6)
DEMANDS = [0.0, 1, 4, 8, 16, 24, 32, 48, 64, 100, 200]


def uses(profile: Profile, found: Allocation, demand: float) -> float:
    """The most used variant's share of its capacity, under an allocation that splits requests."""
    loads = {found.small: 1 - found.direct, found.large: found.large_share}
    return max(
        demand * load * each.seconds(found.batches[name]) / (found.batches[name] * found.instances[name])
        for name, load in loads.items()
        if load and (each := profile.variant(name))
    )


@pytest.mark.parametrize("demand", DEMANDS)
@pytest.mark.parametrize("name", ["hadis", "diffserve-1", "diffserve-2", "diffserve-3"])
def test_a_feasible_allocation_has_the_capacity_that_it_needs(name: str, demand: float) -> None:
    profile = published(name)
    allocator = Hadis() if profile.cascades else Diffserve()
    found = allocator.allocate(Load(demand), profile, Fleet(16, profile.slo_s))
    assert sum(found.instances.values()) == 16
    if found.feasible:
        assert uses(profile, found, demand) <= 0.9 + 1e-6


def test_more_demand_never_means_better_images() -> None:
    losses = [Hadis().allocate(Load(d), published("hadis"), FLEET).loss or 0.0 for d in DEMANDS]
    assert losses == sorted(losses)


def test_what_passes_the_small_variant_by_is_not_charged_to_it() -> None:
    """All requests go to the large one: the small one needs no devices, which the published form takes for it."""
    small, large = VariantProfile("s", 1, (Latency(1, 1.0),)), VariantProfile("l", 1, (Latency(1, 1.0),))
    profile = Profile(
        "p", (small, large), cascades=(Cascade("s", "l", 1.0, 0.0, 1.0), Cascade("s", "l", 0.0, 0.0, 2.0))
    )
    fleet, load = Fleet(10, 5), Load(8)
    assert Hadis(Form.PUBLISHED).allocate(load, profile, fleet).direct == 0
    assert Hadis().allocate(load, profile, fleet).direct == 1


def test_paths_are_limited_each_for_itself() -> None:
    """A router alone: nobody waits for both variants, so that their latencies do not add up."""
    small, large = VariantProfile("s", 1, (Latency(1, 2.0),)), VariantProfile("l", 1, (Latency(1, 2.0),))
    profile = Profile("p", (small, large), cascades=(Cascade("s", "l", 0.5, 0.0, 1.0),))
    assert not Hadis(Form.PUBLISHED).allocate(Load(1), profile, Fleet(10, 3.9)).feasible
    assert Hadis().allocate(Load(1), profile, Fleet(10, 4.1)).feasible


def test_a_discriminator_costs_devices() -> None:
    small, large = (
        VariantProfile("s", 1, (Latency(1, 0.1),), loss=2),
        VariantProfile("l", 1, (Latency(1, 1.0),), loss=1),
    )
    free = Profile("p", (small, large), cascades=(Cascade("s", "l", 0.0, 0.1, 1.0),))
    dear = replace(free, costs=Costs(discriminator_s=0.4))
    fleet, load = Fleet(4, 5), Load(8)
    assert Hadis().allocate(load, free, fleet).feasible
    assert not Hadis().allocate(load, dear, fleet).feasible


def test_diffserve_takes_the_deferral_with_the_best_images_not_the_most() -> None:
    profile = published("diffserve-1")
    found = Diffserve().allocate(Load(1), profile, Fleet(16, 5))
    assert found.deferred == pytest.approx(0.6)  # where the published FID is least
    assert found.loss == pytest.approx(16.79)
    without = replace(profile, mixes=())
    assert Diffserve().allocate(Load(1), without, Fleet(16, 5)).deferred == 1


def test_small_changes_of_demand_change_nothing() -> None:
    profile = published("hadis")
    first = Hadis().allocate(Load(30), profile, FLEET)
    for demand in (29, 31, 30.5, 28.5):
        again = Hadis().allocate(Load(demand), profile, FLEET, first)
        if again.loss != first.loss:  # only ever because it had to
            assert not _still_fits(profile, first, demand)


def _still_fits(profile: Profile, found: Allocation, demand: float) -> bool:
    rows = tuple(
        r
        for r in profile.cascades
        if (r.small, r.large, r.direct, r.deferred) == (*found.pair, found.direct, found.deferred)
    )
    return Hadis().allocate(Load(demand), replace(profile, cascades=rows), FLEET).feasible


def test_better_images_wait_until_demand_has_clearly_fallen() -> None:
    profile = published("hadis")
    alone = {d: Hadis().allocate(Load(d), profile, FLEET).loss for d in (20, 40)}
    busy = Hadis().allocate(Load(40), profile, FLEET)
    assert alone[20] < busy.loss
    assert Hadis().allocate(Load(39.9), profile, FLEET, busy).loss == busy.loss
    assert Hadis().allocate(Load(10), profile, FLEET, busy).loss < busy.loss


def test_a_forced_change_is_made_at_once() -> None:
    profile = published("hadis")
    calm = Hadis().allocate(Load(4), profile, FLEET)
    assert Hadis().allocate(Load(60), profile, FLEET, calm).loss > calm.loss


def test_swaps_that_cost_too_much_are_not_made() -> None:
    profile = published("hadis")
    slow = replace(profile, variants=tuple(replace(each, load_s=60) for each in profile.variants))
    busy = Hadis().allocate(Load(60), profile, FLEET)
    assert Hadis().allocate(Load(8), profile, FLEET, busy).pair != busy.pair
    assert Hadis().allocate(Load(8), slow, FLEET, busy).pair == busy.pair


def test_what_waits_counts_as_demand() -> None:
    profile = published("hadis")
    waiting = Load(20, {"sd35-large-turbo": Queue(waiting=200, arrivals_per_s=20)})
    assert (Hadis().allocate(waiting, profile, FLEET).loss or 0) > (
        Hadis().allocate(Load(20), profile, FLEET).loss or 0
    )


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("name", ["diffserve", "hadis", "proteus"])
def test_overload_has_a_defined_answer(name: str, form: Form) -> None:
    profile = published("hadis" if name == "hadis" else "diffserve-1")
    found = by_name(name, form).allocate(Load(1e5), profile, Fleet(16, profile.slo_s))
    assert not found.feasible and found.reason
    assert found.instances[profile.lightest.name] == 16
    assert found.large_share == 0


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("demand", [0.0, 10.0, 1000.0])
def test_every_allocator_gives_out_what_there_is_and_no_more(name: str, form: Form, demand: float) -> None:
    profile = published("hadis" if name == "hadis" else "diffserve-1")
    fleet, present = Fleet(5, profile.slo_s), None
    for _ in range(3):
        present = by_name(name, form).allocate(Load(demand), profile, fleet, present)
        assert sum(present.instances.values()) <= 5
        assert all(count >= 0 for count in present.instances.values())
        assert all(size >= 1 for size in present.batches.values())
        assert 0 <= present.direct <= 1 and 0 <= present.deferred <= 1


def test_where_devices_are_shared_they_are_split() -> None:
    profile = replace(published("hadis"), shared=True)
    found = Hadis().allocate(Load(1.2), profile, Fleet(1, 30))
    assert found.feasible
    assert any(0 < count < 1 for count in found.instances.values())


# MoDM, Proteus, static ------------------------------------------------------------------------------------------

TRIO = Profile(
    "trio",
    (
        VariantProfile("xs", 4, (Latency(1, 1.0),)),
        VariantProfile("s", 8, (Latency(1, 5.0),)),
        VariantProfile("l", 50, (Latency(1, 20.0),)),
    ),
)
REUSE = Reuse(0.8, {0.2: 0.5, 0.6: 0.5})


def test_quality_mode_takes_the_most_of_the_large_variant_that_will_do() -> None:
    fleet, load = Fleet(10, 60), Load(1.2, reuse=REUSE)
    found = Modm(Form.CORRECTED).allocate(load, TRIO, fleet, _settled(10))
    work = Work(0.24, 1.2 * 0.8 * 0.6, 1 / 20, 1 / 5)
    best = max(n for n in range(1, 11) if work.bearable(n, 10))
    assert 1 < best < 10
    for _ in range(200):
        found = Modm(Form.CORRECTED).allocate(load, TRIO, fleet, found)
    assert found.instances["l"] == best


def _settled(count: int) -> Allocation:
    return Allocation(
        "modm",
        "s",
        "l",
        {"l": float(count), "s": 10.0 - count},
        {},
        memory={"position": float(count), "integral": 0.0, "error": 0.0},
    )


def test_misses_get_what_they_need_at_once() -> None:
    found = Modm(Form.CORRECTED).allocate(Load(0.5, reuse=REUSE), TRIO, Fleet(10, 60), _settled(1))
    assert found.instances["l"] >= 2


def test_a_smaller_small_variant_when_the_present_one_will_not_do_and_back_with_hysteresis() -> None:
    fleet = Fleet(10, 60)

    def small(demand: float, present: Allocation | None) -> Allocation:
        return Modm().allocate(Load(demand, reuse=REUSE), TRIO, fleet, present)

    assert small(0.5, None).small == "s"
    edge = next(d / 100 for d in range(50, 1000) if small(d / 100, None).small == "xs")
    pressed = small(edge, None)
    assert pressed.feasible
    assert small(edge * 0.95, None).small == "s"
    assert small(edge * 0.95, pressed).small == "xs"
    assert small(edge * 0.7, pressed).small == "s"
    assert not small(100, None).feasible


def test_proteus_shares_what_is_asked_for() -> None:
    profile = published("hadis")
    found = Proteus().allocate(Load(20), profile, FLEET)
    assert sum(found.shares.values()) == pytest.approx(1)
    for name, share in found.shares.items():
        batch = found.batches[name]
        assert share * 20 <= found.instances[name] * batch / profile.variant(name).seconds(batch) + 1e-6
    calm = Proteus().allocate(Load(0.5), profile, FLEET)
    assert calm.shares == {"sd35-large": pytest.approx(1)}


def test_proteus_in_its_published_form_gives_up_where_queues_leave_no_time() -> None:
    stuck = Load(1, {"sdxl-lightning": Queue(waiting=1000, arrivals_per_s=1)})
    found = Proteus(Form.PUBLISHED).allocate(stuck, published("hadis"), FLEET)
    assert not found.feasible and found.shares == {"sdxl-lightning": 1}


def test_diffserve_takes_a_pair_that_was_profiled_together() -> None:
    assert Diffserve().allocate(Load(1), published("hadis"), FLEET).pair == ("sd35-large-turbo", "sd35-large")
    assert (
        Diffserve(pair=("sd35-medium", "sd35-large")).allocate(Load(1), published("hadis"), FLEET).small
        == "sd35-medium"
    )


def test_static_never_changes() -> None:
    profile = published("hadis")
    first = Static(design_per_s=20).allocate(Load(1), profile, FLEET)
    assert first.loss == Hadis().allocate(Load(20), profile, FLEET).loss
    assert Static(design_per_s=20).allocate(Load(100), profile, FLEET, first) == first
    fixed = Static(Form.PUBLISHED).allocate(Load(1), published("diffserve-1"), Fleet(16, 5))
    assert (fixed.instances, fixed.confidence) == ({"sd-turbo": 4, "sd15": 12}, 0.02)


# Bad input ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_allocated_says_why() -> None:
    with pytest.raises(InvalidArgument, match="allocator"):
        by_name("none")
    with pytest.raises(InvalidArgument, match="cascades"):
        Hadis().allocate(Load(1), published("modm"), FLEET)
    with pytest.raises(InvalidArgument, match="deferral"):
        Diffserve(Form.PUBLISHED).allocate(Load(1), published("modm"), FLEET)
    with pytest.raises(InvalidArgument, match="how good"):
        Proteus().allocate(Load(1), TRIO, FLEET)
    with pytest.raises(InvalidArgument, match="published form"):
        Static(Form.PUBLISHED).allocate(Load(1), published("hadis"), FLEET)
    for bad in (-1, float("nan")):
        with pytest.raises(InvalidArgument, match="arrivals_per_s"):
            Load(bad)
    with pytest.raises(InvalidArgument, match="devices"):
        Fleet(0, 5)
    with pytest.raises(InvalidArgument, match="slo_s"):
        Fleet(1, 0)
    with pytest.raises(InvalidArgument, match="skips"):
        Reuse(0.5, {0.1: 0.2})
    with pytest.raises(InvalidArgument, match="rising"):
        Mix("a", "b", (0.5, 0.1), (1, 2))
