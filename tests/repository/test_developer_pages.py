"""Files and directories that the pages for developers name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "tests/README.md", "benches/README.md", "src/lib.rs")
]
PAGES += sorted(path for name in ("development", "decisions") for path in (ROOT / "docs" / name).glob("*.md"))

NAMED = re.compile(
    r"(?<![\w/.<-])((?:src|tests|python|gunicorn_worker|benches|docs|examples|\.ci)/[\w./-]*\w/?)(?![\w<*])"
)


def missing(text: str) -> set[str]:
    return {name for name in NAMED.findall(text) if not (ROOT / name).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    assert missing(page.read_text()) == set()


def test_a_missing_file_is_seen() -> None:
    assert missing("`src/lib.rs` and (tests/README.md), in tests/") == set()
    assert missing("`src/nothing.rs` and python/rmeinheld/nothing.py.") == {
        "src/nothing.rs",
        "python/rmeinheld/nothing.py",
    }
    assert missing("https://example.org/docs/nothing") == set()
