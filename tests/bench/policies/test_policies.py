"""The contest of policies with a server that only waits: its order, its ratios, and what Ctrl-C leaves."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.fakes import FakeEmbedder, account, item, picture, served
from underpaint.bench.common.machine import Machine
from underpaint.bench.demand.served import Account
from underpaint.bench.demand.workload import WorkItem
from underpaint.bench.judging.flops import VariantCost
from underpaint.bench.policies import report
from underpaint.bench.policies.arena import Match, entrants
from underpaint.bench.policies.contest import (
    VANILLA,
    Contest,
    Pace,
    Slice,
    blocks,
    cost_ratio,
    hold,
    images_in_all,
    processor_ms,
    speed,
)
from underpaint.bench.policies.results import Bound, Costs, Jury, PolicyResult, bound, judge_all, results
from underpaint.client.pictures import Picture
from underpaint.errors import InvalidArgument, Unavailable
from underpaint.front_door.outcome import First

PACE = Pace(concurrency=2, slice_rounds=3, settle_s=0)
ITEMS = [item(index) for index in range(12)]
LARGE, REFINED = account(), account("tiny-s", "cached_image", steps=10, steps_run=4)
COST = VariantCost(unet=0.5, text_encoder=0.01, vae_encoder=0.2, vae_decoder=0.4)
COSTS = Costs({"tiny-l": COST, "tiny-s": COST}, small="tiny-s", small_cost=0.2)


class FakeServer:
    """Every policy but vanilla refines from the second request on, and takes a quarter of the time."""

    def __init__(self, fail: dict[str, Exception | type[BaseException]] | None = None, after: int = 0) -> None:
        self.painted: list[tuple[str, int]] = []
        self._fail, self._after, self._lock = fail or {}, after, threading.Lock()

    def __call__(self, policy: str, work: WorkItem) -> Picture:
        with self._lock:
            self.painted.append((policy, work.index))
            count = sum(name == policy for name, _ in self.painted)
        if policy in self._fail and count > self._after:
            raise self._fail[policy]
        time.sleep(0.008 if policy == VANILLA else 0.002)
        return picture(work, policy, LARGE if policy == VANILLA or work.index == 0 else REFINED)


def test_slices_alternate_and_vanilla_comes_last_again() -> None:
    server = FakeServer()
    contest = hold(["modm", VANILLA, "nirvana"], ITEMS, server, PACE)
    ran = [(each.policy, each.again) for each in contest.slices]
    assert ran == [(p, False) for p in (VANILLA, "modm", "nirvana")] * 2 + [(VANILLA, True)]
    assert len(server.painted) == images_in_all(["modm", VANILLA, "nirvana"], len(ITEMS), PACE) == 42
    for policy in contest.policies:
        assert [each.item.index for each in contest.images_of(policy)] == list(range(12))
    assert not contest.cut_short


def test_a_short_last_slice_joins_the_one_before() -> None:
    assert [len(block) for block in blocks(range(14), 6)] == [6, 8]
    assert [len(block) for block in blocks(range(15), 6)] == [6, 6, 3]
    assert [len(block) for block in blocks(range(2), 6)] == [2]


def test_ctrl_c_leaves_what_there_is() -> None:
    contest = hold(["modm"], ITEMS, FakeServer({"modm": KeyboardInterrupt}, after=8), PACE)
    assert contest.cut_short == "interrupted"
    assert [each.policy for each in contest.slices] == [VANILLA, "modm", VANILLA]
    assert len(contest.images_of("modm")) >= 8


def test_failures_are_counted_and_do_not_count_as_images() -> None:
    class Flaky(FakeServer):
        def __call__(self, policy: str, work: WorkItem) -> Picture:
            if policy == "modm" and work.index % 2:
                raise Unavailable("full")
            return super().__call__(policy, work)

    contest = hold(["modm"], ITEMS, Flaky(), PACE)
    assert len(contest.failures) == 6 and contest.failures[0].message == "full"
    assert [each.images for each in contest.slices if each.policy == "modm"] == [3, 3]
    assert results(contest, judge_all(contest, None), COSTS)["modm"].work.failures == 6


def test_a_server_that_is_gone_ends_the_contest() -> None:
    contest = hold(["modm"], ITEMS, FakeServer({"modm": Unavailable("gone")}), PACE)
    assert "gone" in contest.cut_short and [each.policy for each in contest.slices] == [VANILLA]


def test_a_request_that_cannot_be_served_ends_everything() -> None:
    with pytest.raises(InvalidArgument):
        hold(["modm"], ITEMS, FakeServer({"modm": InvalidArgument("no")}), PACE)


# Speed ----------------------------------------------------------------------------------------------------------


def a_slice(policy: str, images_per_s: float, began_s: float, again: bool = False) -> Slice:
    return Slice(policy, 10, images_per_s, began_s, began_s + 1, again)


def test_a_slice_is_compared_with_vanilla_around_it() -> None:
    """The machine is half as fast from the middle on, for both sides."""
    slices = [
        a_slice(VANILLA, 4.0, 0),
        a_slice("modm", 12.0, 1),
        a_slice(VANILLA, 4.0, 2),
        a_slice("modm", 4.0, 3),
        a_slice(VANILLA, 2.0, 4, again=True),
    ]
    modm, vanilla = speed(slices, "modm"), speed(slices, VANILLA)
    assert modm.slice_ratios == pytest.approx((3.0, 4 * (1 / 4 + 1 / 2) / 2))
    # 20 images in 10/12 + 10/4 seconds, where vanilla would have taken 10/4 + 10 * 3/8.
    assert modm.ratio == pytest.approx(6.25 / (10 / 12 + 2.5))
    assert modm.images_per_s == pytest.approx(20 / (10 / 12 + 2.5))
    assert vanilla.ratio == 1 and vanilla.images_per_s == pytest.approx(4.0)
    assert vanilla.slice_ratios == pytest.approx((1.0, 4 * (1 / 4 + 1 / 2) / 2))


def test_vanilla_alone_has_nothing_to_be_compared_with() -> None:
    assert speed([a_slice(VANILLA, 4.0, 0)], VANILLA).slice_ratios == (1.0,)


def test_processor_time_is_counted_by_model_and_without_repetitions() -> None:
    clock = itertools.count()

    def processor() -> dict[str, float]:
        ticks = next(clock)  # twice a slice; a model that is loaded later has no time before
        return {"tritonserver": 0.06 * ticks, **({"tiny-l_unet": 0.6 * (ticks - 1)} if ticks > 1 else {})}

    contest = hold(["modm"], ITEMS[:6], FakeServer(), PACE, processor=processor)
    assert processor_ms(contest.slices, "modm") == pytest.approx({"tiny-l_unet": 100.0, "tritonserver": 10.0})
    assert list(processor_ms(contest.slices, "modm")) == ["tiny-l_unet", "tritonserver"]
    assert processor_ms(contest.slices, VANILLA) == pytest.approx({"tritonserver": 10.0})
    told = results(contest, judge_all(contest, None), COSTS)["modm"].to_json()
    assert told["cpu_ms_per_image"] == pytest.approx(110.0) and told["cpu_ratio"] == pytest.approx(11.0)


def test_of_a_server_that_is_not_ours_there_is_no_processor_time() -> None:
    contest = hold(["modm"], ITEMS[:6], FakeServer(), PACE)
    told = results(contest, judge_all(contest, None), COSTS)["modm"].to_json()
    assert told["cpu_ms_per_image"] is None and told["cpu_ratio"] is None and told["cpu_ms_by_model"] == {}


def test_the_variants_are_measured_in_turns() -> None:
    turns: list[str] = []

    def paint(variant: str, number: int) -> None:
        turns.append(variant)
        time.sleep(0.02 if variant == "large" else 0.005)

    cost = cost_ratio(paint, "small", "large", Pace(concurrency=2, pair_rounds=2, pair_s=0.1))
    assert cost > 0
    assert [variant for variant, _ in itertools.groupby(turns)] == ["large", "small"] * 2


def recorded(contest: Contest, jury: Jury, found: dict[str, PolicyResult]) -> report.Record:
    entered = {entrant.name: entrant for entrant in entrants(["modm"], [])}
    machine = Machine("cpu", 2, "Linux", 0.0)
    return report.Record(Match(contest, jury, found, 0.2), entered, {"concurrency": 2}, machine)


# Results --------------------------------------------------------------------------------------------------------


def test_the_bound_is_that_of_the_formula() -> None:
    """h = 0.75, r = 0.2, s = 0.6: 1 / (0.25 + 0.75 · 0.2 · 0.4)."""
    accounts = [REFINED] * 3 + [LARGE]
    assert bound(accounts, "tiny-s", 0.2, throughput_ratio=2.0) == Bound(
        hit_rate=0.75,
        cost_ratio=pytest.approx(0.2),
        steps_skipped=pytest.approx(0.6),
        throughput_ratio=pytest.approx(1 / 0.31),
        reached=pytest.approx(0.62),
    )


def test_the_bound_of_a_resumed_trajectory_is_that_of_its_steps() -> None:
    resumed = Account("tiny-l", "cached_latents", 25, 15, 3.0)
    assert bound([resumed, LARGE], "tiny-s", 0.2, 1.0).throughput_ratio == pytest.approx(1 / 0.8)


def test_small_everywhere_has_a_bound_without_hits() -> None:
    small = account("tiny-s", steps=10, steps_run=10)
    found = bound([small] * 4, "tiny-s", 0.2, throughput_ratio=4.0)
    assert (found.hit_rate, found.throughput_ratio) == (0, pytest.approx(5.0))


def test_a_painting_that_was_not_good_enough_counts_as_well() -> None:
    again = replace(LARGE, escalated_from=First("tiny-s", 10, 10))
    assert bound([again], "tiny-s", 0.2, 0.5).throughput_ratio == pytest.approx(1 / 1.2)
    small = account("tiny-s", steps=10, steps_run=10)
    assert COSTS.gflop(again) == pytest.approx(COSTS.gflop(LARGE) + COSTS.gflop(small))


def test_what_a_hit_costs_beside_denoising_is_a_share_of_its_time() -> None:
    hit = account("tiny-s", start="cached_image", steps_run=10)
    contest = Contest([VANILLA, "modm"], [Slice(name, 2, 1.0, 0.0, 1.0) for name in (VANILLA, "modm")])
    contest.served = {VANILLA: [served(item(0)), served(item(1))], "modm": [served(item(0), done=hit), served(item(1))]}
    found = results(contest, judge_all(contest, None), COSTS)
    assert found["modm"].to_json()["hit_overhead_share"] == pytest.approx((50 - 10 - 30) / 50)
    assert found["modm"].to_json()["hit_cache_share"] == pytest.approx((2 + 1.5 + 0.5) / 50)
    assert found[VANILLA].to_json()["hit_overhead_share"] is None


def test_what_costs_nothing_has_no_bound() -> None:
    assert bound([account(start="finished", steps_run=0)], "tiny-s", 0.2, 9.0).throughput_ratio is None


def test_a_whole_run_is_written(tmp_path: Path) -> None:
    contest = hold(["modm"], ITEMS, FakeServer(), PACE)
    jury = judge_all(contest, FakeEmbedder())
    found = results(contest, jury, COSTS)
    report.write(recorded(contest, jury, found), tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written["policies"]) == [VANILLA, "modm"]
    modm = written["policies"]["modm"]
    assert modm["throughput_ratio"] > 0 and modm["accuracy_ratio"] == modm["clip_ratio"] == 1.0
    assert modm["hit_rate"] == pytest.approx(11 / 12, abs=1e-4) and modm["steps_skipped"] == 0.55
    assert modm["compute_ratio"] < 0.3 and modm["diversity_ratio"] is None
    assert {"fid_ratio", "latency_p50", "latency_p99"} <= set(modm)
    assert written["bound"]["modm"]["cost_ratio"] == 0.2 and written["complete"]
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and {line["policy"] for line in lines} == {VANILLA, "modm"}
    for name in ("throughput", "latency", "hit_rate", "frontier", "modm_sheet"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert "modm" in report.text(found)


def test_a_run_that_was_cut_short_says_so(tmp_path: Path) -> None:
    contest = hold(["modm"], ITEMS, FakeServer({"modm": KeyboardInterrupt}, after=8), PACE)
    jury = judge_all(contest, None)
    found = results(contest, jury, COSTS)
    report.write(recorded(contest, jury, found), tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert not written["complete"] and written["cut_short"] == "interrupted"
    assert written["policies"]["modm"]["fid_ratio"] is None


def test_nothing_measured_is_nothing_reported() -> None:
    contest = Contest([VANILLA, "modm"], cut_short="interrupted")
    assert results(contest, judge_all(contest, None), COSTS) == {}


def test_quality_is_compared_on_the_requests_that_both_served() -> None:
    contest = Contest([VANILLA, "modm"], [a_slice(VANILLA, 4.0, 0), a_slice("modm", 8.0, 1)])
    contest.served = {
        VANILLA: [served(each) for each in ITEMS],
        "modm": [served(each, done=REFINED) for each in ITEMS[:5]],
    }
    jury = judge_all(contest, FakeEmbedder())
    assert results(contest, jury, COSTS)["modm"].work.images == 5
