"""Where the published artifacts' files lie on a machine that has them; tests that need them are skipped elsewhere."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("UNDERPAINT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "diffserve").is_dir(), reason=f"no published data in {DATA}")
