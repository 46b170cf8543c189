"""``underpaint bench policies``: the same prompts and seeds through each policy, on the same server.

The requests are cut into slices. Each slice goes through vanilla and then through every other policy, and a slice's
throughput is compared with that of vanilla just before and just after it, so that what drifts on a noisy machine
drifts for both. Every policy has a tenant of its own, so that none finds what another has left in the cache.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import TypeVar

from underpaint.bench.common.processor import Seconds, since
from underpaint.bench.demand.load import Window, busy_rate_per_s, closed_loop, rate_per_s, work_off
from underpaint.bench.demand.served import Served
from underpaint.bench.demand.workload import WorkItem
from underpaint.client.pictures import Picture
from underpaint.errors import InvalidArgument, Unavailable, UnderpaintError

VANILLA = "vanilla"
Item = TypeVar("Item")
Paint = Callable[[str, WorkItem], Picture]  # has one request served under a policy, and blocks until it is


@dataclass(frozen=True)
class Pace:
    """How the requests are sent.

    Attributes:
        concurrency: requests under way at any time.
        slice_rounds: a slice holds so many requests for each of them.
        settle_s: after each slice, for what the server does after its answers (insert into the cache).
        pair_rounds, pair_s: how often, and how long, the two variants are measured against each other.
    """

    concurrency: int = 16
    slice_rounds: int = 8
    settle_s: float = 1.0
    pair_rounds: int = 2
    pair_s: float = 6.0

    @property
    def slice_items(self) -> int:
        return self.concurrency * self.slice_rounds


@dataclass(frozen=True)
class Slice:
    """A block of requests that went through one policy; times since the run began.

    ``again``: vanilla had painted it before, and only its pace was wanted. ``processor_s``: by model, what the server
    computed for it, inserts after the answers included; empty where that cannot be seen.
    """

    policy: str
    images: int
    images_per_s: float
    began_s: float
    ended_s: float
    again: bool = False
    processor_s: Seconds = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    policy: str
    index: int
    message: str


@dataclass
class Contest:
    """What has been measured so far. ``cut_short``: why that is not everything; empty if it is."""

    policies: Sequence[str]
    slices: list[Slice] = field(default_factory=list)
    served: dict[str, list[Served]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    cut_short: str = ""

    def images_of(self, policy: str) -> list[Served]:
        """In the order of the requests."""
        return sorted(self.served.get(policy, []), key=lambda each: each.item.index)


def hold(
    policies: Sequence[str],
    items: Sequence[WorkItem],
    paint: Paint,
    pace: Pace,
    prepare: Callable[[str, Contest], None] = lambda policy, contest: None,
    tell: Callable[[str], None] = lambda policy: None,
    processor: Callable[[], Seconds] = dict,
) -> Contest:
    """Run the contest. Ctrl-C, or a server that is gone, ends it early with what there is.

    Args:
        policies: names that ``paint`` understands; vanilla is among them, or added.
        prepare: called before every slice with its policy and what has been measured so far.
        tell: called after every image, with the policy that painted it.
        processor: the processor time that the server has taken so far.

    Raises:
        InvalidArgument: a request cannot be served as it stands, so that the others cannot either.
    """
    others = [policy for policy in policies if policy != VANILLA]
    ring = _Ring(Contest([VANILLA, *others]), paint, pace, tell, processor)
    try:
        for block in blocks(items, pace.slice_items):
            for policy in ring.contest.policies:
                prepare(policy, ring.contest)
                ring.run(policy, block)
        if others:  # vanilla's pace after the last of them
            ring.run(VANILLA, block, again=True)
    except KeyboardInterrupt:
        ring.contest.cut_short = "interrupted"
    except Unavailable as error:
        ring.contest.cut_short = str(error)
    return ring.contest


def images_in_all(policies: Sequence[str], items: int, pace: Pace) -> int:
    """How many images ``hold`` paints, for a progress bar."""
    others = len(set(policies) - {VANILLA})
    *_, last = blocks(range(items), pace.slice_items)
    return (1 + others) * items + (len(last) if others else 0)


def blocks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """In slices of ``size``; what would make a last one of less than half of that joins the one before."""
    starts = list(range(0, len(items), size))
    if len(starts) > 1 and len(items) - starts[-1] < size / 2:
        starts.pop()
    return (items[start:stop] for start, stop in zip(starts, [*starts[1:], len(items)], strict=True))


class _Ring:
    """Runs slices and keeps the record."""

    def __init__(
        self,
        contest: Contest,
        paint: Paint,
        pace: Pace,
        tell: Callable[[str], None],
        processor: Callable[[], Seconds],
    ) -> None:
        self.contest = contest
        self._paint, self._pace, self._tell, self._processor = paint, pace, tell, processor
        self._began_s = time.perf_counter()

    def run(self, policy: str, block: Sequence[WorkItem], again: bool = False) -> None:
        """``again``: for the rate alone."""
        failed: set[int] = set()

        def work(number: int) -> None:
            try:
                served = self._serve(policy, block[number])
            except InvalidArgument:
                raise  # the next one would be as wrong
            except UnderpaintError as error:
                failed.add(number)
                self.contest.failures.append(Failure(policy, block[number].index, str(error)))
            else:
                if not again:
                    self.contest.served.setdefault(policy, []).append(served)
            self._tell(policy)

        before, began_s = self._processor(), self._now_s()
        cycles = work_off(work, len(block), self._pace.concurrency)
        ended_s = self._now_s()
        time.sleep(self._pace.settle_s)
        taken = since(before, self._processor())
        answered = len(block) - len(failed)
        if not answered:
            raise Unavailable(f"{policy}: all of {len(block)} requests failed; {self.contest.failures[-1].message}")
        images_per_s = busy_rate_per_s(cycles) * answered / len(block)
        self.contest.slices.append(Slice(policy, answered, images_per_s, began_s, ended_s, again, taken))

    def _serve(self, policy: str, item: WorkItem) -> Served:
        sent_s = self._now_s()
        picture = self._paint(policy, item)
        return Served.of(item, picture, sent_s, self._now_s())

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s


# Speed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Of a policy, beside vanilla.

    Attributes:
        images_per_s: over the whole run, while all workers were busy.
        ratio: the time that vanilla would have taken, at its pace around each slice, over the time taken.
        slice_ratios: the same for each slice alone, in order; for vanilla, its pace over its pace around.
    """

    images_per_s: float
    ratio: float
    slice_ratios: tuple[float, ...]


def speed(slices: Sequence[Slice], policy: str) -> Speed:
    """Of the slices of all policies, in the order in which they were run."""
    own = [each for each in slices if each.policy == policy and not each.again]
    taken_s = [each.images / each.images_per_s for each in own]
    vanilla_s = [each.images * _vanilla_pace_s(slices, each) for each in own]
    return Speed(
        images_per_s=sum(each.images for each in own) / sum(taken_s),
        ratio=1.0 if policy == VANILLA else sum(vanilla_s) / sum(taken_s),
        slice_ratios=tuple(theirs / mine for theirs, mine in zip(vanilla_s, taken_s, strict=True)),
    )


def _vanilla_pace_s(slices: Sequence[Slice], beside: Slice) -> float:
    """Seconds an image of vanilla, in its slices just before and just after this one."""
    vanilla = [each for each in slices if each.policy == VANILLA]
    before = [each for each in vanilla if each.began_s < beside.began_s][-1:]
    after = [each for each in vanilla if each.began_s > beside.began_s][:1]
    return mean(1 / each.images_per_s for each in (*before, *after) or [beside])


def processor_ms(slices: Sequence[Slice], policy: str) -> Mapping[str, float]:
    """Milliseconds of processor an image of a policy took, by model, the most first; empty where nobody looked."""
    own = [each for each in slices if each.policy == policy and not each.again]
    taken: Counter[str] = Counter()
    for each in own:
        taken.update(each.processor_s)
    images = sum(each.images for each in own)
    return {name: 1e3 * seconds / images for name, seconds in taken.most_common() if seconds}


def cost_ratio(paint_with: Callable[[str, int], object], small: str, large: str, pace: Pace) -> float:
    """What an image of the small variant costs in images of the large one: time at saturation, measured in turns.

    Args:
        paint_with: has one image painted from noise by a variant; it is given the variant and a running number.
    """

    def images_per_s(variant: str) -> float:
        window = Window(pace.pair_s, ramp_s=pace.pair_s / 4)
        return rate_per_s(closed_loop(lambda number: paint_with(variant, number), pace.concurrency, window))

    return median(images_per_s(large) / images_per_s(small) for _ in range(pace.pair_rounds))
