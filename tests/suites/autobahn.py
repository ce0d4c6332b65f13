"""Autobahn's cases for WebSockets, sent by `kosoku`, which has them for Python 3, or by Autobahn's own test suite.

Strictly: what a case calls NON-STRICT, or a connection that does not end cleanly, is a failure. Compression
(sections 12 and 13) is not offered, so that those cases have to be UNIMPLEMENTED.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Shared modules of the tests, and their applications.
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "apps")]

from outcome import Outcome  # noqa: E402
from serving import Server, Servers  # noqa: E402

SECTIONS = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13")
"""The sections of the suite. There is no section 8, and 11 is empty."""
COMPRESSION = ("12", "13")
SECTION_SECONDS = 300
AGENT = "rmeinheld"

MESSAGE_BYTES = 16 * 1024 * 1024
"""The largest message of section 9."""

Results = dict[str, tuple[str, str]]
"""The verdicts on the behaviour and on the end of the connection, by case."""


def fault(case: str, behaviour: str, ending: str) -> str | None:
    """The fault of a case, or None."""
    if case.partition(".")[0] in COMPRESSION:
        return None if behaviour == "UNIMPLEMENTED" else behaviour
    fine = ("OK", "INFORMATIONAL")
    if behaviour not in fine:
        return behaviour
    return None if ending in fine else f"ends {ending}"


def judge(suite: str, suite_version: str, results: Results) -> Outcome:
    """Count the faults of all cases."""
    outcome = Outcome(suite, suite_version)
    outcome.count({case: fault(case, *result) for case, result in results.items()}, {})
    found = {case.partition(".")[0] for case in results}
    outcome.unexpected += [f"section {section}: no case has run" for section in SECTIONS if section not in found]
    return outcome


def serve(directory: Path) -> tuple[Servers, Server]:
    """A server that echoes."""
    servers = Servers(directory)
    return servers, servers("websocket_app:app", websocket_max_message_size=MESSAGE_BYTES, websocket_close_timeout=5)


def read_index(path: Path) -> Results:
    """The report of a fuzzing client on one server."""
    ((_, cases),) = json.loads(path.read_text()).items()
    return {case: (result["behavior"], result["behaviorClose"]) for case, result in cases.items()}


def run(work: Path, directory: Path) -> Outcome:
    """Run kosoku, a section at a time, since it has no time limit of its own."""
    program = Path(sys.executable).with_name("kosoku")
    servers, server = serve(directory)
    results: Results = {}
    try:
        for section in SECTIONS:
            output = directory / section
            command = [str(program), "-m", "fuzzingclient", "-i", f"{section}.*", "-o", str(output)]
            subprocess.run(
                [*command, f"127.0.0.1:{server.port}/echo"], check=False, timeout=SECTION_SECONDS, stdout=sys.stdout
            )
            results |= read_index(output / "index.json")
    finally:
        servers.stop()
    write_report(directory.parent / "autobahn-kosoku.md", f"kosoku {version('kosoku')}", results)
    return judge("autobahn (kosoku)", version("kosoku"), results)


# --- Autobahn's own, which needs Python 2.7 --------------------------------------------------------------------------

AUTOBAHN = "25.10.1"
REQUIREMENTS = (
    "Twisted==20.3.0", "autobahn==0.10.9", "txaio==2.0.4", "klein==20.6.0", "werkzeug<1", "jinja2<3", "markupsafe<2",
    "unittest2", "pyOpenSSL<22", "cryptography<3.4", "service_identity<22", "attrs<22", "zope.interface<6",
    "wsaccel==0.6.2", "setuptools<45",
)  # fmt: skip
"""The environment of the original, with the last Python that runs it."""


def find_python_2() -> str:
    """A Python 2.7 that runs: on PATH, or one that pyenv has. SystemExit without one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which("python2.7"), *map(str, sorted(pyenv.glob("2.7.*/bin/python2.7")))]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    sys.exit("Autobahn's test suite needs Python 2.7, and there is none: `pyenv install 2.7.18`, or `make suites`")


def install_autobahn(work: Path) -> Path:
    """`wstest`, in an environment of its own."""
    environment = work / "venv-autobahn"
    program = environment / "bin" / "wstest"
    if not program.exists():
        shutil.rmtree(environment, ignore_errors=True)
        make = [sys.executable, "-m", "virtualenv", "--quiet", "--python", find_python_2(), str(environment)]
        subprocess.run(make, check=True)
        install = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *REQUIREMENTS], check=True)
        subprocess.run([*install, "--no-deps", f"autobahntestsuite=={AUTOBAHN}"], check=True)
    return program


def run_original(work: Path, directory: Path) -> Outcome:
    """Run the original, which always ends with status 0."""
    program = install_autobahn(work)
    servers, server = serve(directory)
    output = directory / "reports"
    target = {"agent": AGENT, "url": f"ws://127.0.0.1:{server.port}/echo", "options": {"version": 18}}
    cases = [f"{section}.*" for section in SECTIONS]
    spec = {"outdir": str(output), "servers": [target], "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    (directory / "spec.json").write_text(json.dumps(spec))
    try:
        command = [str(program), "--mode", "fuzzingclient", "--spec", str(directory / "spec.json")]
        subprocess.run(command, check=True, timeout=10 * SECTION_SECONDS, cwd=directory, stdout=sys.stdout)
    finally:
        servers.stop()
    results = read_index(output / "index.json")
    write_report(directory.parent / "autobahn-original.md", f"autobahntestsuite {AUTOBAHN}", results)
    return judge("autobahn", AUTOBAHN, results)


# --- the report ------------------------------------------------------------------------------------------------------


def write_report(path: Path, suite: str, results: Mapping[str, tuple[str, str]]) -> None:
    """Write the report: a table by section."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    lines = [
        f"{suite} against rmeinheld {version('rmeinheld')}, {today}: {len(results)} cases.\n",
        "| section | cases | behaviour | end of the connection |",
        "|---|---|---|---|",
    ]
    for section in SECTIONS:
        of_section = [result for case, result in results.items() if case.partition(".")[0] == section]
        columns = (counted(behaviour for behaviour, _ in of_section), counted(ending for _, ending in of_section))
        lines.append(f"| {section} | {len(of_section)} | {columns[0]} | {columns[1]} |")
    path.write_text("\n".join(lines) + "\n")


def counted(words: Iterable[str]) -> str:
    """Return the number of times that each word occurs."""
    return ", ".join(f"{count} {word}" for word, count in sorted(Counter(words).items()))


def main() -> int:
    """Run the original."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory for the suite and its report")
    work: Path = parser.parse_args().work.resolve()
    directory = work / "run-autobahn-original"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    outcome = run_original(work, directory)
    print(outcome.line())
    print("\n".join(f"  unexpected: {text}" for text in outcome.unexpected))
    print((work / "autobahn-original.md").read_text())
    return 1 if outcome.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
