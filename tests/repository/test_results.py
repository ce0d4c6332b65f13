"""The results of `make bench`: rows that a later run has measured again (`--merge`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"
MACHINE: dict[str, str | int | float] = {"cpu": "a processor", "cores": 2, "kernel": "6.1", "python": "3.13.0"}


@pytest.fixture(scope="module")
def results() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHES))
        yield importlib.import_module("results")


def run(results: Any, date: str, *measurements: tuple[str, str, float]) -> Any:
    return results.Results(
        date=date,
        command=f"run of {date}",
        quick=False,
        rounds=1,
        seconds=2,
        machine=MACHINE,
        commit=f"commit of {date}",
        measurements=[
            results.Measurement(case, server, 0, {"cpu_us": figure}) for case, server, figure in measurements
        ],
    )


def test_a_case_is_replaced_whole_and_says_where_it_comes_from(results: Any) -> None:
    old = run(results, "1", ("hello", "rmeinheld", 7.0), ("hello", "gone", 8.0), ("cold", "rmeinheld", 30.0))
    new = run(results, "2", ("hello", "rmeinheld", 6.0))
    merged = results.merge(old, new)
    assert merged.median("hello", "rmeinheld", "cpu_us") == 6.0
    # A ratio is taken within a round, so figures of two runs do not meet in a case.
    assert merged.median("hello", "gone", "cpu_us") is None
    assert merged.median("cold", "rmeinheld", "cpu_us") == 30.0
    assert (merged.date, merged.commit) == ("1", "commit of 1")
    assert merged.rows == {"hello": {"date": "2", "commit": "commit of 2", "command": "run of 2"}}


def test_a_case_that_is_measured_twice_again_has_the_last_origin(results: Any) -> None:
    first = run(results, "1", ("hello", "rmeinheld", 7.0))
    merged = results.merge(
        results.merge(first, run(results, "2", ("hello", "rmeinheld", 6.0))),
        run(results, "3", ("hello", "rmeinheld", 5.0)),
    )
    assert merged.median("hello", "rmeinheld", "cpu_us") == 5.0
    assert merged.rows["hello"]["date"] == "3"


@pytest.mark.parametrize("fact", ["cpu", "cores", "kernel", "python"])
def test_figures_of_two_machines_are_not_mixed(results: Any, fact: str) -> None:
    old = run(results, "1", ("hello", "rmeinheld", 7.0))
    new = replace(run(results, "2", ("hello", "rmeinheld", 6.0)), machine=MACHINE | {fact: "another"})
    with pytest.raises(ValueError, match=f"{fact} was .*, now it is another: measure everything"):
        results.merge(old, new)
