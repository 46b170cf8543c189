"""``python3 -m underpaint.triton.probe``: whether every loaded model answers, for a container's health check.

Triton itself goes on saying that it is ready while the process of a Python model is dead. Needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

_WITHIN_S = 5.0


def unwell(server: str) -> list[str]:
    """What is wrong with the server at this address, a phrase each; nothing where all is well."""
    try:
        if not _says_yes(f"{server}/v2/health/ready"):
            return ["the server is not ready"]
        asked = urllib.request.Request(f"{server}/v2/repository/index", b'{"ready": true}', method="POST")
        with urllib.request.urlopen(asked, timeout=_WITHIN_S) as answer:
            models = sorted({each["name"] for each in json.load(answer)})
        paths = {model: f"{server}/v2/models/{urllib.parse.quote(model, safe='')}/ready" for model in models}
        return [f"{model} is not ready" for model, path in paths.items() if not _says_yes(path)]
    except OSError as error:
        return [f"the server does not answer: {error}"]


def _says_yes(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=_WITHIN_S):
            return True
    except urllib.error.HTTPError:
        return False


def main(arguments: Sequence[str]) -> int:
    """Of the server at this address, by default ``http://localhost:8000``."""
    wrong = unwell(arguments[0] if arguments else "http://localhost:8000")
    print("; ".join(wrong) or "all models are ready")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
