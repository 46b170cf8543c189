"""The steps of a rollout. Each can be repeated, so that a command that was interrupted is run again and goes on.

    start    put the version beside the one that serves, load it, send it its share
    promote  send it everything, let the old one end its requests
    finish   once the servers are down: the plain names stand for the new version from now on
    abort    send it nothing, let it end its requests, unload and remove it

Requests move before models do: a model is only replaced or unloaded once no front door sends it anything and its
denoisers hold nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from underpaint.errors import InvalidArgument, NotFound, Unavailable, UnderpaintError
from underpaint.monitor.settings import replace as replace_file
from underpaint.releases import FILE_NAME, Rollout, suffix_of
from underpaint.rollout.comparison import Comparison, compare
from underpaint.rollout.fleet import Door, Server
from underpaint.rollout.repository import Repository

_LOOK_EVERY_S = 0.25
_QUIET_S = 2.0  # gauges are up to a second old, and Triton still clears up behind an answer that has been sent
_DENOISER = "_denoiser"


@dataclass(frozen=True)
class Patience:
    """Seconds: until front doors have read what is new, and until requests under way have ended."""

    adopt_s: float = 30.0
    drain_s: float = 180.0


class Operator:
    """Carries out rollouts in one model repository, one store and the servers that share them."""

    def __init__(
        self,
        repository: Repository,
        store: Path,
        servers: Sequence[Server],
        say: Callable[[str], None] = lambda line: None,
        patience: Patience | None = None,
    ) -> None:
        self._repository, self._store, self._servers, self._say = repository, store, servers, say
        self._patience = patience or Patience()

    def start(self, version: int, percent: float) -> None:
        """Begin a rollout, or give the one that is under way another share.

        Raises:
            InvalidArgument: that version serves already, or another one is on trial.
            NotFound: a component has no such version.
            Unavailable: it does not load; everything is as it was.
        """
        serving = self._repository.deployment()
        wanted = Rollout(serving.family, version, percent)
        running = self._running()
        if version == serving.version:
            raise InvalidArgument.of("version", version, f"another one than {serving.version}, which serves")
        if running is not None and running.candidate != version:
            raise InvalidArgument.of("version", version, f"{running.candidate}, which is on trial: promote or abort it")
        if running is None:
            self._put_beside(version)
        self._decide(wanted)
        self._await("have read the rollout", lambda door: (door.candidate, door.percent) == (version, percent))
        self._say(f"version {version} gets {percent:g}% of the requests")

    def promote(self) -> None:
        """Send the version on trial everything. The old one stays loaded, so that ``abort`` still leads back to it.

        Raises:
            NotFound: no rollout is under way.
            Unavailable: a server does not do its part; run it again.
        """
        rollout = replace(self._needed(), percent=100)
        self._decide(rollout)
        version = rollout.candidate
        self._await("send everything to it", lambda door: (door.candidate, door.percent) == (version, 100))
        self._drain("", self._repository.callers)
        self._say(f"version {version} gets all requests; `underpaint rollout finish`, once the servers are stopped")

    def finish(self) -> None:
        """Give the plain names to the version that was promoted, for servers to start with. They must be down.

        Raises:
            NotFound: no rollout is under way.
            InvalidArgument: it was not promoted, or a server is up.
        """
        rollout = self._needed()
        if rollout.percent < 100:
            raise InvalidArgument.of("percent", rollout.percent, "100: promote it first")
        up = [server.name for server in self._servers if server.control.live()]
        if up:  # server 2.51 died of models that were loaded again as another version, see docs/rollout.md
            raise InvalidArgument.of("server", ", ".join(up), "none that is up: stop them first")
        version = rollout.candidate
        self._repository.settle(version)
        self._repository.load_only(version)
        self._repository.announce(version)
        self._repository.clear(version)
        (self._store / FILE_NAME).unlink(missing_ok=True)
        self._say(f"version {version} is the family's own; start the servers")

    def abort(self) -> None:
        """Withdraw the version on trial. Raises as ``promote`` does."""
        rollout, serving = replace(self._needed(), percent=0), self._repository.deployment().version
        self._decide(rollout)
        self._await("send nothing to it", lambda door: door.candidate is None or door.percent == 0)
        self._drain(suffix_of(rollout.candidate), self._repository.beside(rollout.candidate))
        self._take_away(rollout.candidate, keep=serving)
        (self._store / FILE_NAME).unlink(missing_ok=True)
        self._say(f"version {serving} serves, as before")

    def compare(self) -> Comparison:
        """The two versions side by side. Raises as ``promote`` does."""
        rollout = self._needed()
        samples = [server.sample() for server in self._servers]
        serving = self._repository.deployment().version
        return compare(rollout.family, rollout.candidate, rollout.percent, serving, samples)

    def _put_beside(self, version: int) -> None:
        self._repository.begin(version)
        try:
            for server in self._servers:
                server.load([*self._repository.components, *self._repository.beside(version)])
                self._say(f"{server.control.host}:{server.control.port} has loaded version {version}")
        except UnderpaintError:
            self._take_away(version, keep=self._repository.deployment().version)
            raise

    def _take_away(self, version: int, keep: int) -> None:
        for server in self._servers:
            server.unload(self._repository.beside(version)[::-1])
        self._repository.load_only(keep)
        for server in self._servers:
            server.load(self._repository.components)
        self._repository.clear(version)

    # What is decided, and who knows of it ----------------------------------------------------------------------

    def _running(self) -> Rollout | None:
        rollout = Rollout.load(self._store)
        family = self._repository.deployment().family
        if rollout is not None and rollout.family != family:
            raise InvalidArgument.of("family", family, f"{rollout.family}, whose rollout is under way in {self._store}")
        return rollout

    def _needed(self) -> Rollout:
        rollout = self._running()
        if rollout is None:
            raise NotFound(f"no rollout is under way in {self._store}: begin one with `underpaint rollout start`")
        return rollout

    def _decide(self, rollout: Rollout) -> None:
        replace_file(self._store / FILE_NAME, rollout.to_json())

    def _await(self, what: str, adopted: Callable[[Door], bool]) -> None:
        """Raises Unavailable."""
        self._wait(self._patience.adopt_s, f"not all front doors {what}", lambda: all(map(adopted, self._doors())))

    def _drain(self, suffix: str, callers: Sequence[str]) -> None:
        """Wait until nobody paints with these models any more, and has not for a while. Raises Unavailable."""
        denoisers = [name for name in callers if name.endswith(_DENOISER)]
        busy_s = time.monotonic()

        def quiet() -> bool:
            nonlocal busy_s
            behind_doors = sum(door.in_flight.get(suffix, 0) for door in self._doors())
            if behind_doors or any(server.held_by(denoisers) for server in self._servers):
                busy_s = time.monotonic()
            return time.monotonic() - busy_s > _QUIET_S

        self._wait(self._patience.drain_s, "requests are still under way", quiet)

    def _doors(self) -> list[Door]:
        return [door for server in self._servers for door in server.doors()]

    def _wait(self, within_s: float, complaint: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            if time.monotonic() > deadline:
                raise Unavailable(f"{complaint} after {within_s:g} s; run this again once that is seen to")
            time.sleep(_LOOK_EVERY_S)
