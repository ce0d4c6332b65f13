"""The gauge of instructions: it fails where a figure is away from the committed one, and each row has a figure."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"


@pytest.fixture(scope="module")
def gauge() -> ModuleType:
    specification = importlib.util.spec_from_file_location("instructions", BENCHES / "instructions.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("figure", "fails"), [(10_000, False), (10_199, False), (9_801, False), (10_201, True)])
def test_a_figure_may_differ_by_two_in_a_hundred(gauge: ModuleType, figure: int, fails: bool) -> None:
    assert bool(gauge.compare({"hello": figure, "100 kB": 5}, {"hello": 10_000, "100 kB": 5})) is fails


def test_a_row_may_have_a_tolerance_of_its_own(gauge: ModuleType) -> None:
    name = "generator, 10 x 1 kB"
    assert not gauge.compare({name: 10_399}, {name: 10_000})
    assert gauge.compare({name: 10_401}, {name: 10_000})


def test_a_gain_fails_too_until_the_file_has_it(gauge: ModuleType) -> None:
    complaints = gauge.compare({"hello": 9_000}, {"hello": 10_000})
    assert complaints == ["hello: 9,000 instructions instead of 10,000 (-10.0%, where 2% is allowed)"]


def test_a_row_without_a_figure_fails(gauge: ModuleType) -> None:
    assert gauge.compare({"hello": 9_000}, {}) == ["hello: no figure in the file"]


def test_the_file_has_a_figure_for_each_row(gauge: ModuleType) -> None:
    recorded = json.loads((BENCHES / "results" / "instructions.json").read_text())
    assert list(recorded["instructions"]) == list(gauge.ROWS)
    assert set(recorded["combination"]) == {"python", "libc", "flask", "machine", "rust", "valgrind"}
