"""The Makefile: what counts as a source of the package."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_sources_of_the_package_are_files() -> None:
    """The time of a directory changes with each `__pycache__` and each build of pip, and make would install anew."""
    command = ["make", "--print-data-base", "--question", "help"]
    database = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"^PACKAGE_SOURCES := (.*)$", database, re.MULTILINE)
    assert found is not None
    sources = [ROOT / name for name in found[1].split()]
    assert [path for path in sources if not path.is_file()] == []
    assert {"Cargo.toml", "src/lib.rs", "python/rmeinheld/py.typed", "gunicorn_worker/__init__.py"} <= set(
        found[1].split()
    )
