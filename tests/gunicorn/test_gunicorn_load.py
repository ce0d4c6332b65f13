"""Gunicorn's worker while clients ask without a pause: reloads, upgrades, recycled, killed and hanging workers.

Gunicorn's own behaviour is seen with its own worker, which passes all tests but those of hanging workers:

    GUNICORN_LOAD_WORKER=gthread pytest -k "not hangs" tests/gunicorn/test_gunicorn_load.py
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from frames import HANDSHAKE, frame
from masters import Gunicorn, Load, Masters, is_stopped, wait_until
from serving import TIMEOUT, request

RELOADS, UPGRADES, RECYCLES, KILLS = (int(size) for size in os.environ.get("GUNICORN_LOAD", "20 5 50 20").split())
"""How often each is done: all that is meant, in well under a minute; GUNICORN_LOAD="4 1 10 4" is shorter."""

WORKER = os.environ.get("GUNICORN_LOAD_WORKER", "rmeinheld.gunicorn_worker.Worker")

OPTIONS = ("--workers", "2", "--env", "RMEINHELD_PATCH=1", "--worker-class", WORKER, "--threads", "8")

READY = "A worker heeds signals"

CONF = f"""
def post_worker_init(worker):
    worker.log.info("{READY}")
"""


class Announcing(Gunicorn):
    """A master whose workers say when they heed signals. One that is booting misses them, whatever its class."""

    def ready(self) -> int:
        return self.log().count(READY)

    def end(self) -> None:
        wait_until(lambda: self.ready() >= self.log().count("Booting worker"), self.log)
        super().end()


type Start = Masters[Announcing]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    masters = Masters(tmp_path, Announcing)
    yield masters
    masters.stop()


# --- no answer is lost -----------------------------------------------------------------------------------------------


def test_reloads(start: Start) -> None:
    server = start(*OPTIONS, conf=CONF, app="load_app:app")
    with Load(server) as load:
        load.wait_for_workers(2, set())
        for _ in range(RELOADS):
            seen = load.pids
            server.signal(signal.SIGHUP)
            load.wait_for_workers(2, seen)
    assert load.breaks == []
    assert len(load.pids) >= 2 + 2 * RELOADS


def test_recycled_workers(start: Start) -> None:
    server = start(*OPTIONS, "--max-requests", "50", "--max-requests-jitter", "25", conf=CONF, app="load_app:app")
    with Load(server) as load:
        while len(load.pids) < 2 + RECYCLES:
            load.wait_for_workers(1, load.pids)
    assert load.breaks == []


def upgrade(server: Announcing, load: Load) -> int:
    """Have the master make another, and wait until its workers are there and one has answered; its id."""
    seen, masters, ready = load.pids, server.masters(), server.ready()
    os.kill(masters[0], signal.SIGUSR2)
    # A worker that misses SIGTERM serves on until its master kills it.
    load.wait_for(lambda: server.ready() >= ready + 2)
    load.wait_for_workers(1, seen)
    return server.masters()[-1]


def test_upgrades_that_are_taken_back(start: Start) -> None:
    server = start(*OPTIONS, conf=CONF, app="load_app:app")
    with Load(server) as load:
        first = load.wait_for_workers(2, set())
        for _ in range(UPGRADES):
            successor = upgrade(server, load)
            os.kill(successor, signal.SIGTERM)
            # The old master must have taken note, or it ignores the next SIGUSR2.
            load.wait_for(lambda pid=successor: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
            load.wait_for_answers()
        assert all(server.has(pid) for pid in first)
    assert load.breaks == []
    assert len(load.pids) >= 2 + UPGRADES


def test_an_upgrade_that_stays(start: Start) -> None:
    # A master heeds SIGWINCH as a daemon only.
    server = start(*OPTIONS, "--daemon", "--enable-stdio-inheritance", conf=CONF, app="load_app:app")
    with Load(server) as load:
        first = load.wait_for_workers(2, set())
        (old,) = server.masters()
        upgrade(server, load)
        os.kill(old, signal.SIGWINCH)
        load.wait_for(lambda: not any(server.has(pid) for pid in first))
        load.wait_for_answers()
        os.kill(old, signal.SIGQUIT)
        load.wait_for(lambda: not server.has(old))
        server.wait_for_log("Master has been promoted")
        load.wait_for_answers()
    assert load.breaks == []
    assert len(load.pids) > 2


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has open."""
    links = (os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def test_killed_workers_break_their_own_connections_only(start: Start) -> None:
    server = start(*OPTIONS, conf=CONF, app="load_app:app")
    killed: set[int] = set()
    opened = 0
    with Load(server) as load:
        load.wait_for_workers(2, set())
        for client in itertools.islice(itertools.cycle(load.clients), KILLS):
            ready = server.ready()
            load.wait_for(lambda client=client: server.has(client.pids[-1]))  # type: ignore[misc]
            victim = client.pids[-1]
            # Stopped, to see its descriptors apart from the listening socket.
            os.kill(victim, signal.SIGSTOP)
            load.wait_for(lambda pid=victim: is_stopped(pid))  # type: ignore[misc]
            opened += len(sockets_of(victim) - sockets_of(server.pid))
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            load.wait_for(lambda ready=ready: server.ready() > ready)  # type: ignore[misc]
            load.wait_for_answers()
    print(f"{opened} connections were open on the {KILLS} workers")
    assert len(load.breaks) + load.resent <= opened, load.breaks
    # The worker of a connection without an answer is unknown.
    assert {each.pid for each in load.breaks} <= {None, *killed}, load.breaks
    assert server.log().count("was sent SIGKILL") == KILLS


# --- a worker that hangs ---------------------------------------------------------------------------------------------

HANGING_APP = """
import json, os, re, time
def compute():
    while True:
        pass
def sleep():
    time.sleep(60)
def match():
    re.match(r"(a+)+$", "a" * 40 + "b")
def app(environ, start_response):
    if environ["PATH_INFO"] != "/":
        globals()[environ["PATH_INFO"][1:]]()
    answer = json.dumps({"pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


@pytest.mark.parametrize("function", ["compute", "sleep", "match"])
def test_a_worker_that_hangs_is_replaced_and_its_stack_is_in_the_log(
    start: Start, tmp_path: Path, function: str
) -> None:
    """Within the time limit and two seconds. `match` never lets go of the interpreter."""
    (tmp_path / "hanging_app.py").write_text(HANGING_APP)
    server = start("--timeout", "2", "--env", "RMEINHELD_PATCH=0", conf=CONF, app="hanging_app:app")
    first = server.get("/")["pid"]
    with server.connect() as connection:
        begun = time.monotonic()
        connection.send(request("GET", f"/{function}"))
        # The end of the connection is that of the worker; the socket waits for the next.
        connection.expect_end()
        assert server.get("/")["pid"] != first
        taken = time.monotonic() - begun
    print(f"a worker in {function}() is replaced after {taken:.2f} s")
    assert taken < 2 + 2
    server.wait_for_log("Fatal Python error: Aborted")
    # Else the master would have seen to it a second later.
    assert "was sent SIGKILL" not in server.log()
    server.wait_for_log(rf'File "\S*hanging_app.py", line \d+ in {function}$')


BUSY_APP = """
import json, os
def app(environ, start_response):
    if websocket := environ.get("wsgi.websocket"):
        for message in websocket:
            pass
        return []
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/download":
        return iter(lambda: b"x" * 8192, None)
    source = environ["wsgi.input"]
    while source.read(8192):
        pass
    return [json.dumps({"pid": os.getpid()}).encode()]
"""

FLOODS = {
    "messages": (request("GET", "/", *HANDSHAKE), frame(0x81) * 4000),
    "pings": (request("GET", "/", *HANDSHAKE), frame(0x89) * 4000),
    "an upload": (request("POST", "/upload", "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 4000),
    "a download": (request("GET", "/download"), b""),
}
"""Requests that keep a worker busy, each with the data that its client sends again and again."""


def flood(server: Gunicorn, head: bytes, data: bytes, end: threading.Event, fault: list[str]) -> None:
    """Send `data` again and again, and drop all answers, until `end` is set."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as sock:
        try:
            sock.sendall(head)
            reader = threading.Thread(target=drain, args=(sock,))
            reader.start()
            while not end.is_set():
                sock.sendall(data) if data else end.wait(0.1)
            sock.shutdown(socket.SHUT_RDWR)
            reader.join()
        except OSError as error:
            fault.append(f"the client of {head[:20]!r} lost its connection: {error!r}")


def drain(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 18):
            pass


def test_clients_that_keep_a_worker_busy_do_not_get_it_killed(start: Start, tmp_path: Path) -> None:
    """Each always has work for the worker, for longer than `--timeout`. The heartbeat still gets its turn."""
    (tmp_path / "busy_app.py").write_text(BUSY_APP)
    server = start("--timeout", "2", conf=CONF, app="busy_app:app")
    first = server.get("/")["pid"]
    end = threading.Event()
    faults: list[str] = []
    clients = [threading.Thread(target=flood, args=(server, *flood_of, end, faults)) for flood_of in FLOODS.values()]
    for client in clients:
        client.start()
    try:
        deadline = time.monotonic() + 3.5
        while time.monotonic() < deadline:
            assert server.get("/")["pid"] == first
            time.sleep(0.1)
    finally:
        end.set()
        for client in clients:
            client.join()
    assert faults == []
    assert "WORKER TIMEOUT" not in server.log()


# --- CPUs ------------------------------------------------------------------------------------------------------------


def test_a_request_may_run_on_every_cpu_of_the_master(start: Start) -> None:
    server = start(*OPTIONS, conf=CONF, app="load_app:app")
    cpus = os.sched_getaffinity(server.pid)
    assert cpus == os.sched_getaffinity(0)
    assert server.get("/")["cpus"] == sorted(cpus)
