"""The eight cases of docs/when-it-hangs.md happen as the page says, and the server says of each what the page shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hangs import CASES, OUTPUTS, Stage, path_of, shape, staged


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_a_case_shows_what_its_page_says(case: Callable[[Stage], None], tmp_path: Path) -> None:
    with staged(case, tmp_path) as stage:
        for name, text in stage.outputs.items():
            shown = path_of(case, name).read_text()
            assert shape(text) == shape(shown), f"`python tests/support/hangs.py {case.__name__}` renews:\n{text}"


def test_each_output_belongs_to_a_case() -> None:
    names = {case.__name__ for case in CASES}
    assert {path.stem.partition("-")[0] for path in OUTPUTS.glob("*.txt")} == names
