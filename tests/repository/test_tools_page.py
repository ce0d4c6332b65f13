"""Each row of docs/tools.md names tests that exist, or says how it was found."""

from __future__ import annotations

import re

from pages import DOCS, ROOT

WITHOUT_A_TEST = ("by hand", "untried")


def test_each_row_names_tests_that_exist_or_says_how_it_was_found() -> None:
    text = (DOCS / "tools.md").read_text(encoding="utf-8").partition("## Coming from gevent")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| Tool |"))]
    assert len(rows) > 15
    for row in rows:
        names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert names or any(word in row for word in WITHOUT_A_TEST), row
        for file, name in names:
            (path,) = (ROOT / "tests").glob(f"*/{file}")
            assert f"def {name}(" in path.read_text(), f"{file} has no {name}"
