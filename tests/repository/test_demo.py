"""The demo that `make run` serves: its environment has only the packages of the group `demo`."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def imported_modules(source: str) -> set[str]:
    """The top-level modules that a program imports, wherever it does so."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module.partition(".")[0])
    return modules


def test_the_group_demo_has_what_the_examples_import() -> None:
    own = {"rmeinheld"} | {path.stem for path in EXAMPLES.iterdir()}
    imported = set().union(*(imported_modules(path.read_text()) for path in EXAMPLES.rglob("*.py")))
    # One of the programs that hang waits for PostgreSQL.
    needed = imported - own - sys.stdlib_module_names - {"psycopg"}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert needed == {re.split(r"\W", requirement)[0] for requirement in groups["demo"]}
