"""The tables of ADVISORIES.md and DEVIATIONS.md name tests that exist, for every row."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FEWEST_ROWS = {"ADVISORIES.md": 121, "DEVIATIONS.md": 6}

REFERENCE = re.compile(r"`(corpus/(?P<file>\w+): (?P<case>[^`]+)|(?P<module>test_\w+\.py)::(?P<test>test_\w+))`")


def rows(page: str) -> list[list[str]]:
    """The cells of all rows of a page, without the heads of the tables."""
    lines = (TESTS / page).read_text().splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    heads = {at - 1 for at, row in enumerate(cells) if set("".join(row)) <= {"-"}}
    return [
        [cell.strip() for cell in row]
        for at, row in enumerate(cells)
        if at not in heads and not set("".join(row)) <= {"-"}
    ]


@functools.cache
def functions(module: str) -> set[str]:
    (path,) = TESTS.glob(f"*/{module}")
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@functools.cache
def words_of_corpus(file: str) -> set[str]:
    cases = json.loads((TESTS / "corpus" / f"{file}.json").read_text())
    return {case[key] for case in cases for key in ("name", "source")}


def complaint(row: list[str]) -> str | None:
    """The fault of a row, or None."""
    *said, tests = row
    references = list(REFERENCE.finditer(tests))
    if not references and not said[-1].startswith("not applicable: "):
        return "no test"
    if tests != "-" and REFERENCE.sub("", tests).strip(", "):
        return f"not understood: {REFERENCE.sub('', tests)}"
    for found in references:
        known = words_of_corpus(found["file"]) if found["file"] else functions(found["module"])
        if (found["case"] or found["test"]) not in known:
            return f"there is no {found[0]}"
    return None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (["x", "y", "z", "-"], "no test"),
        (["x", "y", "not applicable: never", "-"], None),
        (["x", "y", "z", "`test_advisories.py::test_that_is_missing`"], "there is no"),
        (["x", "y", "z", "`corpus/advisories: nothing`"], "there is no"),
        (["x", "y", "z", "`test_advisories.py::test_each_row_names_tests_that_exist`, see above"], "not understood"),
    ],
)
def test_a_bad_row_is_found(row: list[str], expected: str | None) -> None:
    found = complaint(row)
    assert (found is None) if expected is None else (found or "").startswith(expected)


@pytest.mark.parametrize("page", FEWEST_ROWS)
def test_each_row_names_tests_that_exist(page: str) -> None:
    complaints = {row[0]: found for row in rows(page) if (found := complaint(row))}
    assert complaints == {}


@pytest.mark.parametrize("page", FEWEST_ROWS)
def test_no_row_is_lost(page: str) -> None:
    assert len(rows(page)) >= FEWEST_ROWS[page]
    assert len({row[0] for row in rows(page)}) == len(rows(page))


def test_each_deviation_has_a_clause_and_a_reason() -> None:
    for clause, demanded, here, reason, _ in rows("DEVIATIONS.md"):
        assert re.fullmatch(r"RFC \d+ \d+(\.\d+)*", clause), clause
        assert demanded and here and reason, clause
