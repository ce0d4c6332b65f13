"""Autobahn's cases for WebSockets, sent by `kosoku`, which has them for Python 3, or by Autobahn's own test suite.

Strictly: what a case calls NON-STRICT, or a connection that does not end cleanly, is a failure. The server agrees to
compression (sections 12 and 13), with the context of earlier messages where kosoku meets it directly, and without under
TLS and under Gunicorn. A case of kosoku that is UNIMPLEMENTED fails.

`kosoku_client.py` bounds the cases of compression to half a MiB each, and to 100 messages; under TLS and under Gunicorn
to a sixteenth of that. The original sends 1,000 messages in each case, and takes an hour or two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import functools
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Shared modules of the tests, and their applications.
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "apps")]

from certificates import make_certificate  # noqa: E402
from masters import Gunicorn  # noqa: E402
from outcome import Outcome  # noqa: E402
from serving import Option, Servers  # noqa: E402

SECTIONS = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13")
"""The sections of the suite. There is no section 8, and 11 is empty."""
WITHOUT_LONG_ONES = tuple(section for section in SECTIONS if section != "9")
"""The sections under TLS and under Gunicorn. Section 9 measures times, and its messages are of up to 16 MiB."""
SECTION_SECONDS = 300
ORIGINAL_SECONDS = 3 * 3600
CASE_BYTES = 512 * 1024
SHORT_CASE_BYTES = 32 * 1024
AGENT = "rmeinheld"

MESSAGE_BYTES = 16 * 1024 * 1024
"""The largest message of section 9."""

Results = dict[str, tuple[str, str]]
"""The verdicts on the behaviour and on the end of the connection, by case."""


def fault(case: str, behaviour: str, ending: str) -> str | None:
    """The fault of a case, or None."""
    fine = ("OK", "INFORMATIONAL")
    if behaviour not in fine:
        return behaviour
    return None if ending in fine else f"ends {ending}"


def judge(suite: str, suite_version: str, results: Results, sections: tuple[str, ...] = SECTIONS) -> Outcome:
    """Count the faults of all cases."""
    outcome = Outcome(suite, suite_version)
    outcome.count({case: fault(case, *result) for case, result in results.items()}, {})
    found = {case.partition(".")[0] for case in results}
    outcome.unexpected += [f"section {section}: no case has run" for section in sections if section not in found]
    return outcome


@contextlib.contextmanager
def serve(directory: Path, **options: Option) -> Iterator[int]:
    """A server that echoes. Yields its port."""
    servers = Servers(directory)
    try:
        limits: dict[str, Option] = {"websocket_max_message_size": MESSAGE_BYTES, "websocket_close_timeout": 5}
        yield servers("websocket_app:app", **limits, **options).port
    finally:
        servers.stop()


@contextlib.contextmanager
def serve_under_tls(directory: Path) -> Iterator[int]:
    """A server that echoes under TLS. Yields the port of a relay in front of it, since kosoku knows no TLS."""
    made = make_certificate(directory / "certificate")
    options: dict[str, Option] = {"certfile": str(made.certificate), "keyfile": str(made.key)}
    context = ssl.create_default_context(cafile=str(made.certificate))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    with serve(directory, websocket_compression="on", **options) as port:
        pass_on = functools.partial(relay, port, context)
        listener = loop.run_until_complete(asyncio.start_server(pass_on, "127.0.0.1", 0))
        thread.start()
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            listener.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def relay(
    port: int, context: ssl.SSLContext, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
) -> None:
    """Pass the bytes of a client on under TLS, and the answers back.

    In one thread, because an SSLSocket of Python before 3.13.1 does not stand reading and writing at once.
    """
    server, to_server = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    await asyncio.gather(pump(client, to_server), pump(server, to_client))


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy until the source ends; then the target hears of it."""
    # The other side may have closed.
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


@contextlib.contextmanager
def serve_under_gunicorn(directory: Path) -> Iterator[int]:
    """A worker of Gunicorn that echoes. Yields its port."""
    settings = {
        "websocket_max_message_size": MESSAGE_BYTES,
        "websocket_close_timeout": 5,
        "websocket_compression": "on",
    }
    (directory / "gunicorn.conf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    master = Gunicorn(directory, (), "websocket_app:app")
    try:
        master.await_socket()
        yield master.port
        master.end()
    finally:
        master.kill()
        print(master.log())


def read_index(path: Path) -> Results:
    """The report of a fuzzing client on one server."""
    # A case whose handshake failed is listed under another name of the server.
    servers = json.loads(path.read_text()).values()
    return {case: (one["behavior"], one["behaviorClose"]) for cases in servers for case, one in cases.items()}


def run(work: Path, directory: Path) -> list[Outcome]:
    """Run kosoku in three ways, a section at a time, since it has no time limit of its own."""
    suite_version = version("kosoku")
    ways = {
        "kosoku": (serve(directory, websocket_compression="takeover"), SECTIONS, CASE_BYTES),
        "kosoku, TLS": (serve_under_tls(directory), WITHOUT_LONG_ONES, SHORT_CASE_BYTES),
        "kosoku, Gunicorn": (serve_under_gunicorn(directory), WITHOUT_LONG_ONES, SHORT_CASE_BYTES),
    }
    outcomes = []
    for name, (server, sections, case_bytes) in ways.items():
        with server as port:
            results = run_sections(directory / name.rpartition(" ")[2], port, sections, case_bytes)
        outcomes.append(judge(f"autobahn ({name})", suite_version, results, sections))
        if name == "kosoku":
            write_report(directory.parent / "autobahn-kosoku.md", f"kosoku {suite_version}", results)
    return outcomes


def run_sections(directory: Path, port: int, sections: tuple[str, ...], case_bytes: int) -> Results:
    """The results of kosoku with the echo at a port."""
    results: Results = {}
    environment = {**os.environ, "AUTOBAHN_CASE_BYTES": str(case_bytes)}
    for section in sections:
        output = directory / section
        command = [sys.executable, str(HERE / "kosoku_client.py"), "-m", "fuzzingclient", "-i", f"{section}.*"]
        subprocess.run(
            [*command, "-o", str(output), f"127.0.0.1:{port}/echo"],
            check=False,
            timeout=SECTION_SECONDS,
            stdout=sys.stdout,
            env=environment,
        )
        results |= read_index(output / "index.json")
    return results


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
    output = directory / "reports"
    cases = [f"{section}.*" for section in SECTIONS]
    with serve(directory, websocket_compression="takeover") as port:
        target = {"agent": AGENT, "url": f"ws://127.0.0.1:{port}/echo", "options": {"version": 18}}
        spec = {
            "outdir": str(output),
            "servers": [target],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (directory / "spec.json").write_text(json.dumps(spec))
        command = [str(program), "--mode", "fuzzingclient", "--spec", str(directory / "spec.json")]
        subprocess.run(command, check=True, timeout=ORIGINAL_SECONDS, cwd=directory, stdout=sys.stdout)
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
