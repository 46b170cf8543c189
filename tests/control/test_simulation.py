"""The simulator against what can be worked out by hand, and the rules that make its two forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.control.artifacts import DATA, needs_data
from underpaint.control.allocation import Allocation, Allocator, Fleet, Form, Load, Reuse
from underpaint.control.allocators import ALLOCATORS, by_name
from underpaint.control.curves import Cascade, Mix
from underpaint.control.demand import OURS
from underpaint.control.profile import Costs, Latency, Profile, VariantProfile
from underpaint.control.published import published
from underpaint.control.simulation.clock import Clock
from underpaint.control.simulation.decisions import Decision
from underpaint.control.simulation.devices import PLACES
from underpaint.control.simulation.jobs import RULES, Rules
from underpaint.control.simulation.population import Population, population, recorded
from underpaint.control.simulation.report import bilinear, summarise
from underpaint.control.simulation.run import simulate
from underpaint.control.simulation.scenario import Run, Scenario
from underpaint.errors import InvalidArgument, NotFound
from underpaint.front_door.door import DoorLimits
from underpaint.policies import Settings
from underpaint.policies.hadis import Hadis

SMALL = VariantProfile("s", 4, (Latency(1, 1.0), Latency(2, 1.5)), load_s=3.0, loss=30.0)
LARGE = VariantProfile("l", 50, (Latency(1, 4.0), Latency(2, 6.0)), load_s=3.0, loss=20.0)
PAIR = Profile("pair", (SMALL, LARGE), mixes=(Mix("s", "l", (0.0, 1.0), (30.0, 20.0)),))
EVEN = np.linspace(0, 1, 1001)
PEOPLE = Population(EVEN, {"s": EVEN[::-1].copy(), "l": EVEN})


class Told(Allocator):
    """Allocations as listed, one a period; the last one stays."""

    name = "told"

    def __init__(self, *allocations: Allocation) -> None:
        self._left = list(allocations)
        self.loads: list[Load] = []

    def allocate(self, load: Load, profile: Profile, fleet: Fleet, present: Allocation | None = None) -> Allocation:
        self.loads.append(load)
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def split(small: float, large: float, **more: object) -> Allocation:
    given = {"policy": "hadis", "small": "s", "large": "l", "batches": {"s": 2, "l": 2}, **more}
    return Allocation(instances={"s": small, "l": large}, **given)  # type: ignore[arg-type]


def run(
    arrivals: list[float],
    *told: Allocation,
    profile: Profile = PAIR,
    rules: Rules = RULES[Form.CORRECTED],
    people: Population = PEOPLE,
    slo_s: float = 100,
    period_s: float = 5,
) -> tuple[Run, Told]:
    allocator = Told(*told)
    fleet = Fleet(int(sum(told[0].instances.values())) or 1, slo_s, period_s)
    scenario = Scenario(profile, people, arrivals, fleet, rules, OURS, opening_per_s=1.0)
    return simulate(scenario, allocator), allocator


def latencies(finished: Run) -> list[float | None]:
    return [None if job.latency_s is None else round(job.latency_s, 6) for job in finished.jobs]


# Time -----------------------------------------------------------------------------------------------------------


def test_events_happen_in_order_and_ties_in_the_order_they_were_asked_for() -> None:
    clock, heard = Clock(), []
    clock.at(2, lambda: heard.append("b"))
    clock.at(1, lambda: clock.after(0, lambda: heard.append("soon")))
    clock.at(1, lambda: heard.append("a"))
    clock.at(2, lambda: heard.append("c"))
    clock.run()
    assert heard == ["a", "soon", "b", "c"]


def test_one_device_takes_whatever_waits_up_to_the_batch() -> None:
    """At 0 the first alone; at 1 two of those that came meanwhile; then the rest."""
    finished, _ = run([0, 0.1, 0.2, 0.3], split(1, 0))
    assert latencies(finished) == [1.0, 2.4, 2.3, 3.2]


def test_a_deferred_request_takes_both_its_stages_and_the_discriminator() -> None:
    everything = split(1, 1, deferred=1.0)
    costs = Costs(router_s=0.25, discriminator_s=0.5)
    finished, _ = run([0], everything, profile=replace(PAIR, costs=costs))
    assert latencies(finished) == [0.25 + 1.0 + 0.5 + 4.0]
    assert finished.jobs[0].painted == ["s", "l"]


def test_what_goes_direct_never_touches_the_small_variant() -> None:
    finished, _ = run([0, 10, 20], split(1, 1, direct=1.0))
    assert [job.painted for job in finished.jobs] == [["l"]] * 3


def test_a_device_that_swaps_is_out_of_service_after_its_batch() -> None:
    """It paints from 4.5, must change at 5, ends at 5.5, loads until 8.5, and paints what came at 5.2 until 12.5."""
    finished, _ = run([4.5, 5.2], split(1, 0), split(0, 1))
    assert latencies(finished) == [1.0, pytest.approx(12.5 - 5.2)]
    assert finished.jobs[1].painted == ["l"]
    assert finished.swaps == 1


SHARED = replace(PAIR, shared=True, step_batching=True)


def test_images_of_a_variant_join_between_steps() -> None:
    finished, _ = run([0, 0.5], split(1, 0), profile=SHARED)
    # Half done alone, then both at 1/1.5: the first has 0.5 left, 0.75 s; the second then has 0.5 left alone.
    assert latencies(finished) == [1.25, pytest.approx(0.75 + 0.5)]


def test_variants_that_share_a_device_slow_each_other_down() -> None:
    """One request for each variant; the small one needs 1 s alone and the large one 4 s."""
    one_each = Population(np.array([0.9, 0.1]), {"s": np.ones(2), "l": np.ones(2)})
    plan = split(0.5, 0.5, direct=0.5)
    both = run_in_order(plan, SHARED, one_each)
    assert latencies(both) == [5.0, 2.0]  # nobody counted cores: half of the device for each
    cores = {"s": 1.0, "l": 2.0}
    counted = replace(SHARED, cores=2, variants=tuple(with_cores(each, cores[each.name]) for each in SHARED.variants))
    shares = run_in_order(plan, counted, one_each)
    # Three cores are wanted and two are there: two thirds of the pace for 1.5 s, then the large one goes on alone.
    assert latencies(shares) == [4.5, 1.5]
    yielding = replace(counted, variants=tuple(replace(each, yields=2.0) for each in counted.variants))
    assert latencies(run_in_order(plan, yielding, one_each)) == [5.0, 2.0]  # half of the pace for 2 s
    idle = replace(counted, cores=4)
    assert latencies(run_in_order(plan, idle, one_each)) == [4.0, 1.0]


def run_in_order(plan: Allocation, profile: Profile, people: Population) -> Run:
    decision = Decision(plan, Hadis(), Settings("s", "l", default_steps={"s": 4, "l": 50}, router_threshold=0.5))
    arrivals, fleet = [0.0] * len(people), Fleet(1, 100)
    prompts = range(len(people))
    scenario = Scenario(profile, people, arrivals, fleet, RULES[Form.CORRECTED], OURS, 1.0, prompts=prompts)
    return simulate(scenario, decision)


def with_cores(variant: VariantProfile, cores: float) -> VariantProfile:
    """That keeps so many busy, however many images there are."""
    return replace(variant, latencies=tuple(replace(o, cpu_s=cores / o.images_per_s) for o in variant.latencies))


def test_scoring_takes_a_core_of_the_device_that_paints() -> None:
    everything = split(1, 1, deferred=1.0)
    profile = replace(SHARED, costs=Costs(router_s=0.25, discriminator_s=0.5), cores=2)
    finished, _ = run([0], everything, profile=profile)
    assert latencies(finished) == [0.25 + 1.0 + 0.5 + 4.0]
    assert finished.jobs[0].painted == ["s", "l"]


def test_a_device_paints_so_many_at_a_time_and_the_most_urgent_first() -> None:
    assert DoorLimits().concurrency == PLACES
    large = split(0, 1, direct=1.0)
    finished, _ = run([0.0] * PLACES + [0.5, 0.6], large, profile=SHARED, slo_s=1e6)
    done = [job.done_s for job in finished.jobs]
    assert done[PLACES] == done[PLACES + 1] and done[PLACES] > max(done[:PLACES])


def test_single_images_differ_as_they_did_when_they_were_profiled() -> None:
    spread = replace(SHARED, variants=(replace(SMALL, spread=(0.5, 1.0, 1.5)), LARGE))
    finished, _ = run([n * 10.0 for n in range(500)], split(1, 0), profile=spread)
    found = np.array(latencies(finished))
    assert found.mean() == pytest.approx(1.0, abs=0.05)
    assert np.percentile(found, 10) == pytest.approx(0.6, abs=0.06)
    assert np.percentile(found, 90) == pytest.approx(1.4, abs=0.06)


# Demand, thresholds ---------------------------------------------------------------------------------------------


def test_demand_is_what_arrives_however_much_is_left_undone() -> None:
    arrivals = [n / 2 + 0.1 for n in range(100)]
    finished, told = run(arrivals, split(1, 0), slo_s=1000)
    assert finished.jobs[-1].latency_s > 20  # one a second is not enough for two
    assert [round(load.arrivals_per_s, 1) for load in told.loads[1:10]] == [2.0] * 9
    assert told.loads[9].queues["s"].waiting > 5
    _, misled = run(arrivals, split(1, 0), slo_s=1000, rules=RULES[Form.PUBLISHED])
    assert misled.loads[9].arrivals_per_s > 5  # as published: what is left undone is taken for demand


@pytest.mark.parametrize("deferred", [0.0, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("direct", [0.0, 0.3])
@pytest.mark.parametrize("form", Form)
def test_the_planned_shares_are_the_shares_seen(deferred: float, direct: float, form: Form) -> None:
    shuffled = np.random.default_rng(0).permutation(EVEN)
    skewed = Population(EVEN**6, {"s": shuffled**8, "l": EVEN})
    arrivals = [n * 0.5 for n in range(1600)]
    finished, _ = run(arrivals, split(4, 8, deferred=deferred, direct=direct), rules=RULES[form], people=skewed)
    small = [job for job in finished.jobs if job.painted[0] == "s"]
    assert 1 - len(small) / 1600 == pytest.approx(direct, abs=0.045)
    assert np.mean([len(job.painted) > 1 for job in small]) == pytest.approx(deferred, abs=0.045)


def test_live_thresholds_know_that_the_router_has_taken_its_share() -> None:
    """What the router finds hard the discriminator would have rejected: among the rest, its scores are others."""
    related = Population(EVEN, {"s": 1 - EVEN, "l": EVEN})
    finished, _ = run([n * 0.5 for n in range(4000)], split(4, 8, deferred=0.4, direct=0.3), people=related)
    small = [job for job in finished.jobs[2000:] if job.painted[0] == "s"]
    assert np.mean([len(job.painted) > 1 for job in small]) == pytest.approx(0.4, abs=0.05)


def test_live_thresholds_follow_a_drift_that_fixed_ones_miss() -> None:
    """Scores are a third of what the threshold was made for: a fixed one then defers nearly everything."""
    drifted = Population(EVEN, {"s": EVEN / 3, "l": EVEN})
    arrivals = [n * 0.5 for n in range(4000)]
    plan = split(4, 8, deferred=0.3)
    live, _ = run(arrivals, plan, people=drifted)
    fixed, _ = run(arrivals, replace(plan, confidence=0.3), people=drifted, rules=RULES[Form.PUBLISHED])
    shares = [np.mean([len(job.painted) > 1 for job in each.jobs[2000:]]) for each in (live, fixed)]
    assert shares[0] == pytest.approx(0.3, abs=0.04)
    assert shares[1] > 0.8


# Lateness -------------------------------------------------------------------------------------------------------


def test_published_rules_drop_what_would_be_done_too_late() -> None:
    finished, _ = run([0.0] * 10, split(1, 0), rules=RULES[Form.PUBLISHED], slo_s=2)
    assert latencies(finished) == [1.0, 2.5, 2.5] + [None] * 7  # the next would be done at 4, and 3 is the limit
    assert sum(job.in_time for job in finished.jobs) == 1


def test_what_cannot_be_deferred_in_time_keeps_its_small_image() -> None:
    finished, _ = run([0, 10], split(1, 1, deferred=1.0), slo_s=4)
    assert [job.painted for job in finished.jobs] == [["s"], ["s"]]
    assert all(job.fallback and job.in_time for job in finished.jobs)


def test_what_the_large_variant_cannot_do_in_time_the_small_one_does() -> None:
    finished, _ = run([0, 0, 0, 0], split(1, 1, direct=1.0), slo_s=7)
    assert all(job.in_time for job in finished.jobs)
    assert sum(job.painted == ["s"] and job.fallback for job in finished.jobs) == 3  # only the first is begun by it


def test_no_request_is_lost_whatever_the_allocator_does() -> None:
    wild = [split(1, 2), split(3, 0), split(0, 3), split(2, 1, deferred=1.0), split(0, 0), split(1, 2, direct=1.0)] * 4
    for form in Form:
        finished, _ = run([n * 0.3 for n in range(400)], *wild, rules=RULES[form], slo_s=30)
        assert all(job.answered != job.dropped for job in finished.jobs)


# Systems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("name", [name for name in ALLOCATORS if name != "hadis"])
def test_every_allocator_runs(name: str, form: Form) -> None:
    profile = published("diffserve-1")
    people = population(profile, None, seed=0, reuse=Reuse(0.7, {0.3: 1.0}))
    arrivals = sorted(np.random.default_rng(0).random(200) * 30)
    scenario = Scenario(profile, people, arrivals, Fleet(16, 5), RULES[form], OURS, opening_per_s=7)
    told: list[int] = []
    summary = summarise(simulate(scenario, by_name(name, form), told.append), profile, people)
    assert sum(told) == 200
    assert summary.answered + summary.dropped == pytest.approx(1)
    assert sum(summary.variants.values()) == pytest.approx(1)
    assert summary.loss is not None and 16 < summary.loss < 23


def test_the_same_seed_is_the_same_run() -> None:
    profile = published("hadis")
    people = population(profile, None, seed=3)
    arrivals = sorted(np.random.default_rng(1).random(300) * 30)
    scenario = Scenario(profile, people, arrivals, Fleet(16, 6), RULES[Form.CORRECTED], OURS, 10)
    first, again = (simulate(scenario, by_name("hadis")) for _ in range(2))
    assert latencies(first) == latencies(again)
    other = simulate(replace(scenario, seed=1), by_name("hadis"))
    assert latencies(other) != latencies(first)


def test_hits_are_refined_by_the_small_variant_for_less() -> None:
    people = Population(EVEN, {"s": EVEN, "l": EVEN}, reuse=Reuse(1.0, {0.6: 1.0}))
    hits = Allocation("modm", "s", "l", {"s": 1.0, "l": 1.0}, {"s": 1, "l": 1})
    profile = replace(PAIR, variants=(replace(SMALL, steps=50), LARGE))
    finished, _ = run([0.0, 5.0], hits, people=people, profile=profile)
    assert latencies(finished) == [pytest.approx(0.4)] * 2


def test_large_devices_refine_hits_when_no_miss_waits() -> None:
    people = Population(EVEN, {"s": EVEN, "l": EVEN}, reuse=Reuse(1.0, {0.6: 1.0}))
    hits = Allocation("modm", "s", "l", {"s": 1.0, "l": 1.0}, {"s": 1, "l": 1})
    profile = replace(PAIR, variants=(replace(SMALL, steps=50), LARGE))
    finished, _ = run([0.0, 0.0], hits, people=people, profile=profile)
    assert sorted((job.variant, round(job.latency_s or 0, 6)) for job in finished.jobs) == [("l", 1.6), ("s", 0.4)]


def test_blind_shares_are_kept() -> None:
    mixed = Allocation("random-mix", "s", "l", {"s": 4.0, "l": 4.0}, {"s": 2, "l": 2}, shares={"s": 0.75, "l": 0.25})
    finished, _ = run([n * 1.0 for n in range(1200)], mixed)
    assert np.mean([job.variant == "l" for job in finished.jobs]) == pytest.approx(0.25, abs=0.04)


# Quality --------------------------------------------------------------------------------------------------------


def test_quality_is_that_of_what_was_served_not_of_what_was_planned() -> None:
    finished, _ = run([0, 10], split(1, 1, deferred=1.0, loss=1.0), slo_s=4)  # no time for the large one
    assert summarise(finished, PAIR, PEOPLE).loss == 30
    served, _ = run([0, 10], split(1, 1, deferred=1.0, loss=1.0))
    assert summarise(served, PAIR, PEOPLE).loss == 20


def test_quality_between_profiled_configurations() -> None:
    rows = [Cascade("s", "l", d, e, 10 * d + e) for d in (0, 0.5, 1.0) for e in (0, 1.0)]
    assert bilinear(rows, 0.25, 0.5) == pytest.approx(3.0)
    assert bilinear(rows[:-1], 0.25, 0.5) is None


def test_recorded_scores_say_how_right_the_images_are(tmp_path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("router,confidence,small_correct,large_correct\n0.1,0.9,1,1\n0.8,0.1,0,1\n")
    people = recorded(file, "s", "l")
    arrivals = [n * 8.0 for n in range(200)]
    small, _ = run(arrivals, split(1, 1), people=people)
    assert summarise(small, PAIR, people).accuracy == pytest.approx(0.5, abs=0.1)
    judged, _ = run(arrivals, split(1, 1, confidence=0.5), people=people)
    assert summarise(judged, PAIR, people).accuracy == 1
    file.write_text("router,confidence,small_correct,large_correct\n0.1,2,1,1\n")
    with pytest.raises(InvalidArgument, match="confidence"):
        recorded(file, "s", "l")
    with pytest.raises(NotFound):
        recorded(tmp_path / "none.csv", "s", "l")


@needs_data
def test_published_scores_defer_what_the_published_curve_says() -> None:
    profile = published("diffserve-1", DATA)
    people = population(profile, DATA, seed=0)
    share = np.mean(people.confidence["sd-turbo"] < 0.1)
    assert share == pytest.approx(profile.deferrals[0].share(0.1))
