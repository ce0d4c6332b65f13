"""CPython's own tests, run in a coroutine under `rmeinheld.patch.patch_all()`.

    python tests/stdlib/cpython_tests.py [--jobs 3] [--python PATH] [--under rmeinheld|gevent|nothing] [FILE...]

The files come with the interpreter (Debian: the package libpython3.x-testsuite). `skips.txt` lists the tests that
cannot pass, one reason a line. A listed test that passes or does not exist is an error. Other errors are a test that
fails without being listed, and a list that is longer than its heading allows.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
SKIPS = HERE / "skips.txt"

FILE_SECONDS = 240
"""How long a file may take; several take a minute without any patch."""


HOWS = ("passed", "skipped", "failed", "left")
"""How a test ends: `skipped` by itself, `left` out because of the list."""


@dataclass(frozen=True)
class Skip:
    """A line of the list."""

    file: str
    pattern: str
    versions: tuple[str, ...]
    kind: str
    """`fails`: it is run, and has to fail. `hangs`: it is not run. `flaky`: it is not run either."""
    reason: str

    def holds(self, version: str) -> bool:
        return not self.versions or version in self.versions


@dataclass
class Heading:
    """A heading of the list: the number of tests that a file may have on it, and gevent's number for comparison."""

    most: int
    gevent: int


@dataclass
class Outcome:
    """The result of one file."""

    file: str
    seconds: float = 0.0
    tests: dict[str, str] = field(default_factory=dict)
    begun: str = ""
    ended: bool = False
    log: str = ""

    def count(self, how: str) -> int:
        """How many tests ended so."""
        return sum(ended == how for ended in self.tests.values())


def read_list(text: str) -> tuple[dict[str, Heading], list[Skip]]:
    """The headings by file, and the lines. Raises ValueError naming the line that makes no sense."""
    headings: dict[str, Heading] = {}
    skips: list[Skip] = []
    file = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if found := re.fullmatch(r"\[([\w.]+)\] at most (\d+), gevent (\d+)", line):
            file = found[1]
            headings[file] = Heading(int(found[2]), int(found[3]))
        elif found := re.fullmatch(r"(\S+)\s+\|\s*([\d. ]*)\|\s*(fails|hangs|flaky)\s*\|\s*(\S.*)", line):
            skips.append(Skip(file, f"{file}.{found[1]}", tuple(found[2].split()), found[3], found[4]))
        else:
            raise ValueError(f"{SKIPS.name}, line {number}: {line!r}")
    return headings, skips


def run_file(python: str, under: str, file: str, left_out: list[str]) -> Outcome:
    """Run a file in a process of its own."""
    outcome = Outcome(file)
    read, write = os.pipe()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+", errors="replace") as log:
        command = [python, str(HERE / "cpython_child.py"), str(write), under, file, *left_out]
        process = subprocess.Popen(
            command,
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        os.close(write)
        with ThreadPoolExecutor(1) as pool, os.fdopen(read, errors="replace") as lines:
            reading = pool.submit(follow, lines, outcome)
            try:
                process.wait(FILE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 6)
                process.wait()
            finally:
                # Children that the tests have left would hold the pipe open.
                try:
                    os.killpg(process.pid, 9)
                except ProcessLookupError:
                    pass
            reading.result(30)
        log.seek(0)
        outcome.log = log.read()
    outcome.seconds = time.monotonic() - started
    return outcome


def tell(outcome: Outcome, logs: Path | None) -> None:
    """Print a line of what became of a file, and keep its output."""
    print(
        f"{outcome.file:<28}{outcome.seconds:6.1f} s ", *(f"{outcome.count(how):5} {how}" for how in HOWS), flush=True
    )
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"{outcome.file}.log").write_text(outcome.log)


def follow(lines: Iterator[str], outcome: Outcome) -> None:
    """Read what the child says, to its end."""
    for line in lines:
        how, _, name = line.strip().partition(" ")
        if how == "begins":
            outcome.begun = name
        elif how == "end":
            outcome.ended = True
        else:
            outcome.begun = ""
            if outcome.tests.get(name) != "failed":
                outcome.tests[name] = how


def faults(outcome: Outcome, skips: list[Skip], heading: Heading | None) -> Iterator[str]:
    """Deviations from the list."""
    if not outcome.ended:
        where = f"in {outcome.begun}" if outcome.begun else "outside of any test"
        yield f"{outcome.file}: did not end; it was {where}"
    listed = {name for name in outcome.tests for skip in skips if fnmatch.fnmatchcase(name, skip.pattern)}
    for name, how in outcome.tests.items():
        if how == "failed" and name not in listed:
            yield f"{name}: failed"
    for skip in skips:
        named = {name: how for name, how in outcome.tests.items() if fnmatch.fnmatchcase(name, skip.pattern)}
        if not named and outcome.ended and outcome.tests:
            yield f"{skip.pattern}: there is no such test"
        if skip.kind == "fails" and named and "failed" not in named.values():
            yield f"{skip.pattern}: listed as failing, and does not fail"
    count = sum(how in ("failed", "left") for name, how in outcome.tests.items() if name in listed)
    if heading is not None and count > heading.most:
        yield f"{outcome.file}: {count} tests are listed, more than the {heading.most} of the list's heading"


def main() -> int:
    """Run the files; the exit status is 1 if anything is not as the list says."""
    parser = argparse.ArgumentParser(description="CPython's tests under rmeinheld.patch.")
    parser.add_argument("files", nargs="*", help="test files, such as test_socket (default: all that are listed)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter, with rmeinheld (default: this one)")
    parser.add_argument("--under", choices=("rmeinheld", "gevent", "nothing"), default="rmeinheld")
    parser.add_argument(
        "--jobs", type=int, default=3, help="files at once (default: 3; they wait more than they compute)"
    )
    parser.add_argument("--logs", type=Path, help="a folder for the files' output")
    options = parser.parse_args()
    headings, skips = read_list(SKIPS.read_text())
    code = "import sys, test.support; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([options.python, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        print(f"{options.python} has no tests of its own: on Debian install its libpython3.x-testsuite")
        return 0
    version = asked.stdout.strip()
    mine = [skip for skip in skips if skip.holds(version)] if options.under == "rmeinheld" else []
    files = options.files or list(headings)

    def run(file: str) -> Outcome:
        left_out = [skip.pattern for skip in mine if skip.file == file and skip.kind != "fails"]
        return run_file(options.python, options.under, file, left_out)

    def wrong_in(outcome: Outcome) -> list[str]:
        listed = [skip for skip in mine if skip.file == outcome.file]
        return list(faults(outcome, listed, headings.get(outcome.file)))

    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(run, files):
            outcomes[outcome.file] = outcome
            tell(outcome, options.logs)
    # As CPython's own runner does (`--rerun`): a file that failed while other files ran gets a second chance by itself.
    # Many of these tests have times in them.
    for file in [file for file, outcome in outcomes.items() if wrong_in(outcome)]:
        print(f"once more, alone: {file}; it was", *wrong_in(outcomes[file]), sep="\n  ")
        outcomes[file] = run(file)
        tell(outcomes[file], options.logs)
        if wrong_in(outcomes[file]):
            print(outcomes[file].log[-6000:])
    wrong = [line for outcome in outcomes.values() for line in wrong_in(outcome)]
    totals = {how: sum(outcome.count(how) for outcome in outcomes.values()) for how in HOWS}
    listed = totals["failed"] + totals["left"]
    gevent = sum(headings[file].gevent for file in files if file in headings)
    print(f"Python {version}: {totals['passed']} passed, {totals['skipped']} skipped by themselves, {listed} listed")
    print(f"gevent lists {gevent} of the same files")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
