"""The tests of redis-py, PyMySQL and urllib3, in a coroutine of a process whose standard library is patched.

They run a second time without the patch, at the same time and with a server of its own. A test that fails there as well
does not fail because of the patch: some tests need another version of the server, or one at the default port.

PyMySQL publishes no tests with its source distributions. They come from its repository, or from the copy of that which
the environment variable PYMYSQL_SOURCE names; without either they do not run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from databases import MariaDB, Redis, running
from outcome import Outcome
from requests_tests import results

HERE = Path(__file__).resolve().parent

REDIS_FILES = (
    "background cache client commands command_parser connect connection connection_pool encoding function hash lock "
    "max_connections_error monitor multiprocessing pipeline pubsub retry scripting"
)
"""The files for a single server without modules, and for the blocking client."""

REDIS_LEFT_OUT = "not test_sync and not test_psync"
"""Left out: tests of replication, which does not run here, so that the client waits ten seconds in vain."""

PYMYSQL_REPOSITORY = "https://github.com/PyMySQL/PyMySQL"
PYMYSQL_COMMIT = "0305ab3"
"""The commit at version 1.2, with tests for later changes."""

PYMYSQL_SETUP = """
CREATE DATABASE test1 DEFAULT CHARACTER SET utf8mb4;
CREATE DATABASE test2 DEFAULT CHARACTER SET utf8mb4;
CREATE USER test2@localhost IDENTIFIED BY 'some password';
GRANT ALL ON test2.* TO test2@localhost;
"""

URLLIB3_LEFT_OUT = "not test_http2_probe_blocked_per_thread and not test_tunneling_proxy_request_timeout"
"""Left out: tests that need an address that never answers, and may fail without the patch too."""

URLLIB3_EXPECTED: dict[str, tuple[str, str]] = {
    f"test.test_wait::{test}[{function}]": (
        "ValueError: signal only works",
        "sets a signal handler outside the main thread",
    )
    for test in ("test_eintr", "test_eintr_zero_timeout", "test_eintr_infinite_timeout")
    for function in ("wait_for_socket", "select_wait_for_socket", "poll_wait_for_socket")
}
"""Tests that fail with the patch alone, and why."""

SECONDS = 900.0


def run_redis(sdist: Path, directory: Path) -> Outcome:
    """Run redis-py's tests; `directory` is for the reports."""
    files = [f"tests/test_{name}.py" for name in REDIS_FILES.split()]
    marks = "not onlycluster and not redismod and not ssl and not experimental"
    options = ["-m", marks, "-k", REDIS_LEFT_OUT, *files]

    def arguments(server: Redis) -> list[str]:
        return [f"--redis-url=redis://127.0.0.1:{server.port}/0", *options]

    if shutil.which("redis-server") is None:
        return not_run("redis-py's own tests", "redis-server is not installed")
    with running(Redis) as server, running(Redis) as other:
        return compare("redis-py's own tests", sdist, directory, arguments(server), arguments(other))


def run_pymysql(work: Path, directory: Path) -> Outcome:
    """Run PyMySQL's tests; `directory` is for the reports, and two copies of the repository."""
    if shutil.which("mariadbd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin") is None:
        return not_run("PyMySQL's own tests", "mariadbd is not installed")
    source = os.environ.get("PYMYSQL_SOURCE", PYMYSQL_REPOSITORY)
    kept = work / "pymysql"
    if not kept.is_dir():
        command = ["git", "clone", "--quiet", "--no-checkout", source, str(kept)]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
            return not_run("PyMySQL's own tests", f"{source} cannot be reached; PYMYSQL_SOURCE may name another")
    subprocess.run(["git", "-C", str(kept), "checkout", "--quiet", PYMYSQL_COMMIT], check=True)

    def arguments(server: MariaDB) -> list[str]:
        script = server.directory / "setup.sql"
        script.write_text(PYMYSQL_SETUP)
        with script.open() as statements:
            client = ["mariadb", "--no-defaults", f"--socket={server.socket}", "--user=root"]
            subprocess.run(client, stdin=statements, check=True)
        root = {"user": "root", "password": "", "database": "test1", "use_unicode": True, "local_infile": True}
        user = {"host": "127.0.0.1", "port": server.port, "user": "test2", "password": "some password"}
        found = [{"host": "localhost", "unix_socket": server.socket, **root}, {**user, "database": "test2"}]
        # The tests look for it in their own directory.
        copy = server.directory / "source"
        shutil.copytree(kept, copy, ignore=shutil.ignore_patterns(".git"))
        (copy / "pymysql/tests/databases.json").write_text(json.dumps(found))
        return ["--rootdir", str(copy), str(copy / "pymysql/tests")]

    with running(MariaDB) as server, running(MariaDB) as other:
        return compare("PyMySQL's own tests", kept, directory, arguments(server), arguments(other))


def run_urllib3(sdist: Path, work: Path, directory: Path) -> Outcome:
    """Run urllib3's tests; `directory` is for the reports, and `work` for what the tests need."""
    requirements = work / "urllib3-requirements"
    if not requirements.is_dir():
        options = ["--quiet", "--target", str(requirements), "--requirement", str(HERE / "urllib3_requirements.txt")]
        subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    # Garbage of one test would fail another. Timeouts of a tenth of a second are for quiet machines.
    arguments = ["-p", "no:unraisableexception", "-p", "no:timeout", "-k", URLLIB3_LEFT_OUT, "test"]
    paths = (sdist / "src", requirements)
    return compare("urllib3's own tests", sdist, directory, arguments, arguments, URLLIB3_EXPECTED, paths)


def not_run(suite: str, reason: str) -> Outcome:
    """The outcome of a suite that lacks what it needs here."""
    return Outcome(suite, f"(not run: {reason})")


def compare(
    suite: str,
    source: Path,
    directory: Path,
    arguments: list[str],
    plain_arguments: list[str],
    expected: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    paths: Sequence[Path] = (),
) -> Outcome:
    """Run a suite with the patch and without, and count what the patch changes.

    `expected` are the tests that fail with the patch alone, and why. `paths` come first on the path of modules.
    """
    patched = start("patched", source, directory, arguments, paths)
    plain = start("plain", source, directory, plain_arguments, paths)
    try:
        for process in (patched, plain):
            process.wait(SECONDS)
    finally:
        for process in (patched, plain):
            process.kill()
    ours, base = (results(directory / f"{name}.xml") for name in ("patched", "plain"))
    outcome = Outcome(suite, source.name.rpartition("-")[2])
    outcome.skipped = sum(result is None for result in ours.values())
    faults = {name: result for name, result in ours.items() if result is not None}
    # In the same way: with the same exception.
    too = {
        name: (fault.partition(":")[0], "fails without the patch too")
        for name, ours_too in faults.items()
        if ours_too and (fault := base.get(name))
    }
    outcome.count({name: fault or None for name, fault in faults.items()}, {**expected, **too})
    if missing := base.keys() ^ ours.keys():
        outcome.unexpected.append(f"only with or only without the patch: {', '.join(sorted(missing))}")
    return outcome


def start(
    name: str, source: Path, directory: Path, arguments: list[str], paths: Sequence[Path] = ()
) -> subprocess.Popen[bytes]:
    """Start pytest, patched or plain."""
    options = ["-p", "no:cacheprovider", "-p", "no:httpbin", "-p", "no:warnings", f"--basetemp={directory / name}"]
    options += [f"--junitxml={directory / name}.xml"]
    # With -P the modules next to the script do not hide others of the same name.
    pytest_itself = ["-P", str(HERE / "pytest_patched.py")] if name == "patched" else ["-m", "pytest"]
    root = arguments[1] if arguments[0] == "--rootdir" else str(source)
    with (directory / f"{name}.log").open("wb") as log:
        command = [sys.executable, *pytest_itself, *options, *arguments]
        path = os.pathsep.join((*map(str, paths), root))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
