"""Suites that others wrote, run against the server: `make suites`.

Their code comes from PyPI at pinned versions, and is not part of this repository; the probes of HTTP are data, in
`probes/`. Each suite prints a line that can be quoted, and `results.json` has all results. Each has a table
of the failures that are expected, with the reason of each. A result that differs from the table, also for the better,
makes the exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Shared modules of the tests, and their applications.
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "apps")]
# For the servers, which are processes of their own.
os.environ["PYTHONPATH"] = str(HERE)

import autobahn  # noqa: E402
import client_tests  # noqa: E402
import django_tests  # noqa: E402
import gunicorn_corpus  # noqa: E402
import probes  # noqa: E402
import requests_tests  # noqa: E402
import validators  # noqa: E402
from outcome import Outcome  # noqa: E402

SDISTS = HERE / "sdists.txt"

SUITES: dict[str, Callable[[Path, Path], list[Outcome]]] = {
    "gunicorn": lambda work, directory: [gunicorn_corpus.run(fetch("gunicorn", work), directory)],
    "probes": lambda work, directory: probes.run(directory),
    "requests": lambda work, directory: [requests_tests.run(fetch("requests", work), directory)],
    "django": lambda work, directory: [django_tests.run(fetch("django", work), directory)],
    "autobahn": autobahn.run,
    "validators": lambda work, directory: validators.run(directory),
    "redis": lambda work, directory: [client_tests.run_redis(fetch("redis", work), directory)],
    "pymysql": lambda work, directory: [client_tests.run_pymysql(work, directory)],
    "urllib3": lambda work, directory: [client_tests.run_urllib3(fetch("urllib3", work), work, directory)],
}
"""The function that runs each suite, by name. It gets the directory of all suites, and its own."""

ONLY_BY_NAME = ("urllib3",)
"""Suites that run only when the command line names them: they take longer than CI has for them."""


def fetch(package: str, work: Path) -> Path:
    """The directory of the package's source distribution, which pip downloads and checks."""
    (requirement,) = (line for line in SDISTS.read_text().splitlines() if line.startswith(f"{package}=="))
    pinned = requirement.split()[0].partition("==")[2]
    assert version(package) == pinned, f"{package} {version(package)} is installed, and sdists.txt has {pinned}"
    directory = work / f"{package}-{pinned}"
    if not directory.is_dir():
        downloads = work / "downloads"
        downloads.mkdir(exist_ok=True)
        (downloads / f"{package}.txt").write_text(requirement)
        options = ["--quiet", "--no-deps", "--no-binary", package, "--require-hashes", "--dest", str(downloads)]
        command = [sys.executable, "-m", "pip", "download", *options, "--requirement", f"{downloads}/{package}.txt"]
        subprocess.run(command, check=True)
        with tarfile.open(downloads / f"{package}-{pinned}.tar.gz") as archive:
            archive.extractall(work, filter="data")
    return directory


def run(name: str, work: Path) -> list[Outcome]:
    """Run one suite. Its output goes to the file `<name>.log`."""
    directory = work / f"run-{name}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    with (work / f"{name}.log").open("w") as log, contextlib.redirect_stdout(log):
        return SUITES[name](work, directory)


def main() -> int:
    """Run the suites that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory for downloads, logs and results.json")
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="suite",
        help=f"any of {', '.join(SUITES)}; default: all but {', '.join(ONLY_BY_NAME)}",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    work: Path = arguments.work.resolve()
    results = []
    is_as_expected = True
    for name in arguments.suites or [name for name in SUITES if name not in ONLY_BY_NAME]:
        started = time.monotonic()
        outcomes = run(name, work)
        seconds = round(time.monotonic() - started, 1)
        for outcome in outcomes:
            print(outcome.line(), flush=True)
            for text in outcome.unexpected:
                print(f"  unexpected: {text}")
            is_as_expected &= not outcome.unexpected
            results.append(dataclasses.asdict(outcome))
        print(f"  in {seconds} s", flush=True)
    facts = {"rmeinheld": version("rmeinheld"), "python": platform.python_version(), "suites": results}
    (work / "results.json").write_text(json.dumps(facts, indent=2) + "\n")
    return 0 if is_as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
