"""What has become of a request under a cascade: its first painting, what was thought of it, and what followed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from underpaint.errors import DeadlineExceeded, Unavailable
from underpaint.front_door.pipelines import Job, Painting
from underpaint.front_door.registry import Visit
from underpaint.policies import Fallback, Plan


@dataclass
class Cascade:
    """Empty for a request that is painted once and not judged.

    Attributes:
        confidence: the discriminator's score of the first painting.
        first: the painting that was not good enough, and the job that it was made for.
        fallback: why the image is given although nobody vouches for it.
    """

    confidence: float | None = None
    first: tuple[Job, Painting] | None = None
    fallback: Fallback | None = None

    @property
    def escalated(self) -> bool:
        """Whether the image that is given is the second."""
        return self.first is not None and self.fallback is None

    def escalate(self, plan: Plan, job: Job, painting: Painting, visit: Visit) -> Plan:
        """Keep what was painted for ``job``, in case ``plan``, which follows, cannot be carried out."""
        self.first = job, painting
        visit.spent_ns["other"] += painting.painted_ns - painting.called_ns
        return plan

    def give_up(self, failure: Unavailable, visit: Visit) -> tuple[Job, Painting]:
        """The first painting after all: an image that may be poor is better than none.

        Raises:
            Unavailable: there is none.
        """
        if self.first is None:
            raise failure
        job, painting = self.first
        self.fallback = Fallback.LATE if isinstance(failure, DeadlineExceeded) else Fallback.FAILED
        since_first_ns = time.monotonic_ns() - painting.painted_ns
        visit.spent_ns["other"] = since_first_ns - visit.spent_ns["judge"]
        return job, painting
