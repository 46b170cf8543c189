"""What is deployed, which version is on trial, and the settings for both, from files that are read again on change."""

from __future__ import annotations

from pathlib import Path

from underpaint.deployment import Deployment
from underpaint.deployment import file_name as deployment_file
from underpaint.front_door.settings_files import SettingsFiles, stamp
from underpaint.front_door.traffic import Release, Traffic
from underpaint.releases import FILE_NAME as ROLLOUT
from underpaint.releases import Rollout


class TrafficFiles:
    """``deployment.json`` and, beside it, that of a version on trial; ``rollout.json`` in the store; all settings."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder, self._store = folder, store
        self._settings: list[SettingsFiles] = []
        self._seen: list[tuple[int, int] | None] = []

    def read(self) -> Traffic:
        """What the files say now.

        Raises:
            InvalidArgument: a settings.json or rollout.json makes no sense.
            OSError: there is no deployment.json.
        """
        self._seen, self._settings = self._stamps(), []
        stable = self._release(Deployment.load(self._folder))
        rollout = Rollout.load(self._store)
        if rollout is None or rollout.family != stable.deployment.family:
            return Traffic(stable)
        return Traffic.of(stable, self._candidate(rollout), rollout)

    def changed(self) -> bool:
        """Whether a file came, went or was written since they were last read."""
        return self._stamps() != self._seen or any(each.changed() for each in self._settings)

    def _candidate(self, rollout: Rollout) -> Release | None:
        """None where this server was not told of that version."""
        if not (self._folder / deployment_file(rollout.candidate)).is_file():
            return None
        return self._release(Deployment.load(self._folder, rollout.candidate))

    def _release(self, deployment: Deployment) -> Release:
        files = SettingsFiles(self._folder, deployment, self._store)
        self._settings.append(files)
        return Release(deployment, files.read())

    def _stamps(self) -> list[tuple[int, int] | None]:
        deployments = sorted(self._folder.glob(deployment_file("*")))
        return [stamp(path) for path in (self._folder / deployment_file(), *deployments, self._store / ROLLOUT)]
