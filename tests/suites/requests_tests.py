"""The tests of the library requests, with httpbin served by rmeinheld.

They run a second time with the server that pytest-httpbin brings, which is that of wsgiref. A test that fails there as
well does not fail because of the server: some tests need a network in which certain addresses cannot be reached.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from outcome import Outcome

HERE = Path(__file__).resolve().parent

EXPECTED: dict[str, tuple[str, str]] = {}
"""Tests that fail with this server alone, with the reasons."""

SECONDS = 600.0


def run(sdist: Path, directory: Path) -> Outcome:
    """Run the suite; `directory` is for its reports."""
    # Both run at the same time, since they mostly wait.
    runs = {server: start(server, sdist, directory) for server in ("rmeinheld", "wsgiref")}
    for process in runs.values():
        process.wait(SECONDS)
    ours, base = (results(directory / f"{server}.xml") for server in runs)
    outcome = Outcome("requests' own tests", sdist.name.rpartition("-")[2])
    outcome.skipped = sum(result is None for result in ours.values())
    faults = {name: result for name, result in ours.items() if result is not None}
    # In the same way: with the same exception.
    too = {
        name: (fault.partition(":")[0], "fails with wsgiref's server too")
        for name, ours_too in faults.items()
        if ours_too and (fault := base.get(name))
    }
    outcome.count({name: fault or None for name, fault in faults.items()}, EXPECTED | too)
    if missing := base.keys() ^ ours.keys():
        outcome.unexpected.append(f"only with one of the servers: {', '.join(sorted(missing))}")
    return outcome


def start(server: str, sdist: Path, directory: Path) -> subprocess.Popen[bytes]:
    """Start pytest with a server: "rmeinheld", "gthread", or "wsgiref"."""
    report = directory / f"{server}.xml"
    options = ["-p", "no:cacheprovider", f"--junitxml={report}", f"--basetemp={directory / server}"]
    if server != "wsgiref":
        # The plugin of the package makes way for the one in this directory.
        options += ["-p", "no:httpbin", "-p", "served_httpbin"]
    environment = os.environ | {
        "SUITES_SERVER": server,
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent / "support"))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with (directory / f"{server}.log").open("wb") as log:
        command = [sys.executable, "-m", "pytest", *options, "tests"]
        return subprocess.Popen(command, cwd=sdist, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def results(report: Path) -> dict[str, str | None]:
    """By name of the test: what failed, "" if it passed, None if it was skipped or is known to fail."""
    found: dict[str, str | None] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        faults = [fault for kind in ("failure", "error") if (fault := case.find(kind)) is not None]
        if faults:
            found[name] = (faults[0].get("message") or "").partition("\n")[0][:200] or "failed"
        else:
            found[name] = None if case.find("skipped") is not None else ""
    return found
