"""The servers under measurement: how each is started for a task, found ready, and ended."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import pinned_to
from measure import process_tree, start_time
from toolchain import BENCHES, PROGRAMS, peers_python

START_ATTEMPTS = 3  # another process can take a free port before the server binds it
READY_SECONDS = 20.0
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0
# Longer than any scenario holds its idle connections.
HOLD_SECONDS = 120
BACKLOG = 4096


class StartError(Exception):
    """A server did not come up; the message ends with what it printed last."""


class FirstAnswerError(StartError):
    """It came up and does not answer as it should, which another start would not change."""


@dataclass(frozen=True)
class Task:
    """The task of a server. The rest of its settings stay at their defaults."""

    app: str = "hello"  # of apps.py, or "module:app"
    first: tuple[str, bytes] = ("/", b"Hello, world!")  # the path of the first request, and what answers it
    sleep_seconds: float = 0.1
    asleep_at_once: int = 0  # requests that must be able to sleep at the same time
    idle_connections: int = 0  # connections that must be able to stay open without a request
    longest_body: int = 0  # of a request; 0: the server's default suffices

    @property
    def target(self) -> str:
        """The application as "module:app"."""
        return self.app if ":" in self.app else f"apps:{self.app}"


@dataclass(frozen=True)
class Contender:
    """A server in the benchmark."""

    name: str
    command: Callable[[int, Task], list[str]]
    serves_while_asleep: bool  # whether other requests run while one waits
    sleep_module: str = "time"


@dataclass(frozen=True)
class Running:
    """A server that answered its first request; `answer_head` is the head of that answer."""

    contender: Contender
    command: list[str]
    pid: int
    port: int
    answer_head: str


def _floor(port: int, task: Task) -> list[str]:
    return [str(PROGRAMS / "floor"), str(port)]


def _alone(port: int, task: Task) -> list[str]:
    return [sys.executable, str(BENCHES / "alone.py"), task.target]


def _in_python(task: Task) -> str:
    """Statements that bind the application to `app`."""
    module, name = task.target.split(":")
    return f"from {module} import {name} as app; "


def _rmeinheld(port: int, task: Task) -> list[str]:
    command = [sys.executable, "-m", "rmeinheld", "--bind", f"127.0.0.1:{port}", "--backlog", str(BACKLOG)]
    if task.asleep_at_once:
        command += ["--worker-connections", str(2 * task.asleep_at_once)]
    if task.idle_connections:
        command += ["--keep-alive", str(HOLD_SECONDS)]
    if task.longest_body:
        command += ["--limit-request-body", str(task.longest_body)]
    return [*command, "--chdir", str(BENCHES), task.target]


def _unpatched(port: int, task: Task) -> list[str]:
    return [*_rmeinheld(port, task), "--no-patch"]


def _at_once(port: int, task: Task) -> list[str]:
    return [*_rmeinheld(port, task), "--hold-answers", "0"]


def _bjoern(port: int, task: Task) -> list[str]:
    script = f"import bjoern; bjoern.run(app, '127.0.0.1', {port}, listen_backlog={BACKLOG})"
    return [str(peers_python()), "-c", _in_python(task) + script]


def _fastpysgi(port: int, task: Task) -> list[str]:
    longest = f"fastpysgi.server.max_content_length = {task.longest_body}; " if task.longest_body else ""
    script = (
        f"import fastpysgi; fastpysgi.server.backlog = {BACKLOG}; {longest}"
        f"fastpysgi.run(wsgi_app=app, host='127.0.0.1', port={port})"
    )
    return [str(peers_python()), "-c", _in_python(task) + script]


def _granian(port: int, task: Task) -> list[str]:
    # One blocking thread is what Granian's own benchmark uses; sleeping requests need one each.
    threads = task.asleep_at_once + 16 if task.asleep_at_once else 1
    command = [str(peers_python()), "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--blocking-threads", str(threads), "--backlog", str(BACKLOG)]
    if task.asleep_at_once or task.idle_connections:
        command += ["--backpressure", str(2 * max(task.asleep_at_once, task.idle_connections))]
    return [*command, "--log-level", "warning", task.target]


def _uwsgi(port: int, task: Task) -> list[str]:
    # Its own parser of HTTP with keep-alive; one process without threads, as Bjoern.
    module, name = task.target.split(":")
    command = [str(peers_python().with_name("uwsgi")), "--http11-socket", f"127.0.0.1:{port}", "--master"]
    command += ["--die-on-term", "--need-app", "--listen", str(_backlog()), "--disable-logging"]
    command += ["--http-keepalive", "--socket-timeout", str(HOLD_SECONDS), "--processes", "1"]
    return [
        *command,
        "--virtualenv",
        str(peers_python().parents[1]),
        "--pythonpath",
        str(BENCHES),
        "--module",
        module,
        "--callable",
        name,
    ]


def _backlog() -> int:
    """uWSGI refuses a backlog that the kernel would cut."""
    return min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def _meinheld(port: int, task: Task) -> list[str]:
    script = (
        f"import meinheld; meinheld.set_backlog({BACKLOG}); meinheld.set_keepalive({HOLD_SECONDS}); "
        f"meinheld.set_access_logger(None); meinheld.listen(('127.0.0.1', {port})); meinheld.run(app)"
    )
    return [str(peers_python(is_old=True)), "-c", _in_python(task) + script]


def _gthread(port: int, task: Task) -> list[str]:
    threads = ["--threads", str(task.asleep_at_once + 16 if task.asleep_at_once else 1)]
    room = ["--worker-connections", str(2 * max(task.asleep_at_once, task.idle_connections, 1000))]
    command = [str(peers_python()), "-m", "gunicorn", "--worker-class", "gthread", *threads, *room]
    command += ["--bind", f"127.0.0.1:{port}", "--backlog", str(BACKLOG), "--keep-alive", str(HOLD_SECONDS)]
    return [*command, "--log-level", "warning", "--chdir", str(BENCHES), task.target]


def gunicorn(python: str, worker: str, workers: int = 1) -> Callable[[int, Task], list[str]]:
    """The command of Gunicorn with this number of workers of this class."""

    def command(port: int, task: Task) -> list[str]:
        options = ["--worker-class", worker, "--workers", str(workers), "--bind", f"127.0.0.1:{port}"]
        options += ["--backlog", str(BACKLOG), "--keep-alive", str(HOLD_SECONDS), "--log-level", "warning"]
        if task.asleep_at_once or task.idle_connections:
            options += ["--worker-connections", str(2 * max(task.asleep_at_once, task.idle_connections))]
        return [python, "-m", "gunicorn", *options, "--chdir", str(BENCHES), task.target]

    return command


OUR_WORKER = "rmeinheld.gunicorn_worker.Worker"
FLOOR = Contender("floor", _floor, serves_while_asleep=False)
# No server: alone.py calls the application itself.
ALONE = Contender("alone", _alone, serves_while_asleep=False)
RMEINHELD = Contender("rmeinheld", _rmeinheld, serves_while_asleep=True, sleep_module="rmeinheld.coroutine")
UNPATCHED = Contender("rmeinheld-no-patch", _unpatched, serves_while_asleep=False)
AT_ONCE = Contender("rmeinheld-at-once", _at_once, serves_while_asleep=False)
GEVENT = Contender("gunicorn-gevent", gunicorn(str(peers_python()), "gevent"), serves_while_asleep=True)
PEERS = (
    Contender("bjoern", _bjoern, serves_while_asleep=False),
    Contender("fastpysgi", _fastpysgi, serves_while_asleep=False),
    Contender("granian", _granian, serves_while_asleep=True),
    GEVENT,
    Contender("gthread", _gthread, serves_while_asleep=True),
    Contender("uwsgi", _uwsgi, serves_while_asleep=False),
    Contender("meinheld", _meinheld, serves_while_asleep=False),
)


def rmeinheld_problem(*, figures_count: bool) -> str | None:
    """Why the installed rmeinheld cannot be measured, or None. A debug build is good enough where no figures count."""
    try:
        spec = importlib.util.find_spec("rmeinheld._rmeinheld")
    except ImportError as error:
        return f"rmeinheld cannot be imported by this interpreter ({error}): use `make bench`"
    if spec is None or spec.origin is None:
        return "rmeinheld has no extension module for this interpreter: use `make bench`"
    if figures_count and Path(spec.origin).resolve().is_relative_to(BENCHES.parent / "python"):
        return "rmeinheld is an editable install, which is a debug build: install the wheel"
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_connect(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None:
            raise StartError(f"ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartError(f"not listening after {READY_SECONDS:.0f} s") from error
        time.sleep(POLL_SECONDS)


def get(port: int, path: str) -> tuple[str, bytes]:
    """Head and body of the answer to a GET on a connection of its own; raises OSError or HTTPException without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        fields = "".join(f"{name}: {value}\r\n" for name, value in response.getheaders())
        return f"HTTP/1.1 {response.status} {response.reason}\r\n{fields}", response.read()
    finally:
        connection.close()


def _first_answer(port: int, task: Task) -> str:
    """Ask once, which also warms the server up, and return the head; raises FirstAnswerError at a wrong one."""
    path, expected = task.first
    try:
        head, body = get(port, path)
    except (OSError, http.client.HTTPException) as error:
        raise FirstAnswerError(f"no answer to the first request: {error!r}") from error
    if not head.startswith("HTTP/1.1 200 ") or body != expected:
        raise FirstAnswerError(f"wrong answer to the first request: {head}{body!r}")
    return head


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its descendants: politely, then by force, each by its id and only if it is still the same."""
    tree = [(pid, started) for pid in process_tree(process.pid) if (started := start_time(pid)) is not None]
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} did not end within {STOP_SECONDS:.0f} s of SIGTERM: killed", file=sys.stderr)
        process.kill()
        process.wait()
    for pid, started in tree:
        if pid != process.pid and start_time(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return "; ".join([line for line in lines if len(line) > 1][-2:]) or "it printed nothing"


@contextlib.contextmanager
def _started(contender: Contender, task: Task, core: int | None) -> Iterator[Running]:
    port = _free_port()
    command = contender.command(port, task)
    environment = os.environ | {
        "BENCH_SLEEP_MODULE": contender.sleep_module,
        "BENCH_SLEEP_SECONDS": str(task.sleep_seconds),
    }
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    log = PROGRAMS / f"{contender.name}.log"
    with log.open("wb") as output, pinned_to(core):
        process = subprocess.Popen(
            command, cwd=BENCHES, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        try:
            _wait_for_connect(process, port)
            head = _first_answer(port, task)
        except StartError as error:
            raise type(error)(f"{contender.name}: {error}: {_last_lines(log)}") from None
        yield Running(contender, command, process.pid, port, head)
    finally:
        _end(process)


@contextlib.contextmanager
def running_server(contender: Contender, task: Task, core: int | None) -> Iterator[Running]:
    """Run a server pinned to `core` (None: to none) until the block ends; raises StartError if it does not come up."""
    with contextlib.ExitStack() as stack:
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                running = stack.enter_context(_started(contender, task, core))
                break
            except StartError as error:
                if attempt == START_ATTEMPTS or isinstance(error, FirstAnswerError):
                    raise
        yield running
