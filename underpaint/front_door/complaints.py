"""One log line says why, not one for every request."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable


class Complaints:
    """A log in which each subject comes up now and then at most."""

    def __init__(self, log: Callable[[str], None], every_s: float = 30.0) -> None:
        self._log, self._every_s = log, every_s
        self._due_s: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def about(self, subject: str, message: str) -> None:
        """Say ``message``, unless ``subject`` has come up just before."""
        now_s = time.monotonic()
        if now_s < self._due_s.get(subject, 0.0):
            self._unsaid[subject] += 1
            return
        unsaid = self._unsaid.pop(subject, 0)
        self._due_s[subject] = now_s + self._every_s
        self._log(f"{subject}: {message}" + (f" (and {unsaid} times before)" if unsaid else ""))
