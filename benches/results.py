"""The results of a run: every measurement of every round, and the medians and ratios."""

from __future__ import annotations

import datetime
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from machine import commit
from toolchain import versions

FORMAT = 1


def origin(machine: dict[str, str | int | float]) -> dict[str, Any]:
    """Return where the figures of a benchmark come from: its date, commit, command, machine and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": sys.argv,
        "machine": machine,
        "versions": versions(),
    }


@dataclass(frozen=True)
class Measurement:
    """One case of one server in one round; with a `problem` there are no figures."""

    case: str
    server: str
    round: int
    figures: dict[str, float]
    problem: str | None = None


@dataclass
class Results:
    """All of a run, as it is kept in the JSON file."""

    date: str
    command: str
    quick: bool
    rounds: int
    seconds: int
    machine: dict[str, str | int | float]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    commit: str = ""
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    """Date, commit and command of each case that a later run has measured again."""
    left_out: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    answer_heads: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        return {"format": FORMAT} | asdict(self)

    def servers(self) -> list[str]:
        """Names of the servers with a measurement, in the order of their first one."""
        return list(dict.fromkeys(measurement.server for measurement in self.measurements))

    def by_round(self, case: str, server: str, figure: str) -> dict[int, float]:
        """The figure in each round that has it."""
        return {
            measurement.round: measurement.figures[figure]
            for measurement in self.measurements
            if measurement.case == case and measurement.server == server and figure in measurement.figures
        }

    def median(self, case: str, server: str, figure: str) -> float | None:
        """Median of the rounds, or None without any."""
        values = self.by_round(case, server, figure)
        return statistics.median(values.values()) if values else None

    def ratio(self, case: str, server: str, other: str, figure: str) -> float | None:
        """Median of the ratios to another server, each taken within one round; None without a common round."""
        mine, theirs = self.by_round(case, server, figure), self.by_round(case, other, figure)
        ratios = [mine[number] / theirs[number] for number in mine if theirs.get(number)]
        return statistics.median(ratios) if ratios else None

    def problems(self) -> dict[tuple[str, str], list[str]]:
        """For each case and server with failed rounds, what went wrong in each."""
        found: dict[tuple[str, str], list[str]] = {}
        for measurement in self.measurements:
            if measurement.problem:
                found.setdefault((measurement.case, measurement.server), []).append(measurement.problem)
        return found


def merge(old: Results, new: Results) -> Results:
    """The old results with the cases of a later run in place of theirs, or after them.

    A case is replaced as a whole, since a ratio is taken within a round. Raises ValueError on
    another machine.
    """
    for fact in ("cpu", "cores", "kernel", "python"):
        if old.machine[fact] != new.machine[fact]:
            raise ValueError(f"{fact} was {old.machine[fact]}, now it is {new.machine[fact]}: measure everything")
    cases = list(dict.fromkeys(measurement.case for measurement in new.measurements))
    row = {"date": new.date, "commit": new.commit, "command": new.command}
    kept = [measurement for measurement in old.measurements if measurement.case not in cases]
    return replace(
        old,
        versions={name: old.versions.get(name, {}) | packages for name, packages in new.versions.items()},
        left_out=new.left_out,
        commands=old.commands | new.commands,
        answer_heads=old.answer_heads | new.answer_heads,
        measurements=kept + new.measurements,
        rows=old.rows | dict.fromkeys(cases, row),
    )


def load(file: Path) -> Results:
    """Read a JSON file that a run wrote; raises ValueError if it has another format."""
    data = json.loads(file.read_text())
    if data.pop("format", None) != FORMAT:
        raise ValueError(f"{file} is no results file of format {FORMAT}")
    data["measurements"] = [Measurement(**item) for item in data["measurements"]]
    return Results(**data)
