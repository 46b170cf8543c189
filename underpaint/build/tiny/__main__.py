"""`python -m underpaint.build.tiny`: the same as `underpaint train tiny`."""

from underpaint.build.tiny.cli import main

raise SystemExit(main())
