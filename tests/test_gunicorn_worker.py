"""Gunicorn with `--worker-class rmeinheld.gunicorn_worker.Worker`: serving, signals, heartbeat, recycling, settings."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serving import TIMEOUT, Connection, Process, environment_of_child, request, takes

LISTENING = r"Listening at: http://127\.0\.0\.1:(\d+)"


class Gunicorn(Process):
    """A master of Gunicorn and its workers."""

    def __init__(self, directory: Path, options: tuple[str, ...]) -> None:
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "rmeinheld.gunicorn_worker.Worker"]
        command += ["--bind", "127.0.0.1:0", "--no-control-socket", *options, "gunicorn_app:app"]
        super().__init__(command, directory, environment_of_child(directory))
        self.port = 0

    def await_start(self) -> None:
        """Wait until a worker answers."""
        self.port = int(self.wait_for_log(LISTENING)[1])
        self.get("/")

    def connect(self) -> Connection:
        return Connection(("127.0.0.1", self.port))

    def get(self, target: str, *fields: str) -> dict[str, Any]:
        with self.connect() as connection:
            response = connection.request(request("GET", target, "Connection: close", *fields))
            assert response.status == 200, response
            seen: dict[str, Any] = json.loads(response.body)
            return seen

    def status(self, data: bytes) -> int:
        with self.connect() as connection:
            return connection.request(data).status


type Start = Callable[..., Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Gunicorn`: a running master, which must end in order at the end of the test."""
    masters: list[Gunicorn] = []

    def started(*options: str) -> Gunicorn:
        masters.append(Gunicorn(tmp_path, options))
        masters[-1].await_start()
        return masters[-1]

    yield started
    for master in masters:
        try:
            if master.popen.poll() is None:
                master.signal(signal.SIGTERM)
                assert master.wait() == 0
        finally:
            print(master.log())
            master.kill()


class Load:
    """A client that asks again and again in a thread, and counts."""

    def __init__(self, server: Gunicorn, keep_alive: bool) -> None:
        self.answers = 0
        self.pids: set[int] = set()
        self.faults: list[str] = []
        self._server, self._keep_alive = server, keep_alive
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with self._server.connect() as connection:
                    self._ask(connection)
            except (OSError, AssertionError) as fault:
                self.faults.append(repr(fault))

    def _ask(self, connection: Connection) -> None:
        data = request("GET", "/", *([] if self._keep_alive else ["Connection: close"]))
        is_kept, is_used = True, False
        while is_kept and not self._over.is_set():
            if is_used and not self._sent(connection, data):
                # RFC 9112 9.3.1: an idle connection may end at any time, and the request is sent again.
                return
            response = connection.read_response() if is_used else connection.request(data)
            is_used = True
            assert response.status == 200
            self.answers += 1
            self.pids.add(json.loads(response.body)["pid"])
            is_kept = not response.ends_connection

    @staticmethod
    def _sent(connection: Connection, data: bytes) -> bool:
        """Send a request; false if the connection has ended before the first byte of an answer."""
        try:
            connection.send(data)
            return connection.receive()
        except OSError:
            return False

    def wait_for(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not what():
            assert time.monotonic() < deadline, (self.answers, self.pids, self.faults)
            self._thread.join(0.05)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        assert self.faults == []


def test_an_application_is_served(start: Start) -> None:
    server = start("--workers", "2")
    seen = server.get("/a%20b?c", "X-Forwarded-For: 192.0.2.1")
    assert (seen["PATH_INFO"], seen["RAW_URI"], seen["QUERY_STRING"]) == ("/a b", "/a%20b?c", "c")
    assert (seen["REMOTE_ADDR"], seen["SERVER_PORT"]) == ("127.0.0.1", str(server.port))
    assert seen["wsgi.multiprocess"] is True
    assert seen["wsgi.multithread"] is True
    assert seen["wsgi.input_terminated"] is True


def test_requests_that_wait_do_not_hinder_each_other(start: Start) -> None:
    server = start()
    connections = [server.connect() for _ in range(20)]
    with takes(0.9, 3):
        for connection in connections:
            connection.send(request("GET", "/sleep"))
        assert {connection.read_response().status for connection in connections} == {200}
    for connection in connections:
        connection.close()


def test_term_lets_requests_in_progress_finish(start: Start) -> None:
    server = start()
    with server.connect() as connection:
        connection.send(request("GET", "/sleep"))
        server.wait_for_log("begun /sleep")
        server.signal(signal.SIGTERM)
        response = connection.read_response()
        assert (response.status, response.ends_connection) == (200, True)
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_quit_ends_at_once(start: Start) -> None:
    server = start("--graceful-timeout", "30")
    with server.connect() as connection:
        connection.send(request("GET", "/sleep"))
        server.wait_for_log("begun /sleep")
        with takes(0, 5):
            server.signal(signal.SIGQUIT)
            assert server.wait() == 0


@pytest.mark.parametrize("keep_alive", [False, True])
def test_hup_loses_no_request(start: Start, keep_alive: bool) -> None:
    server = start("--workers", "2", "--graceful-timeout", "5")
    with closing(Load(server, keep_alive)) as load:
        load.wait_for(lambda: load.answers > 50)
        for _ in range(4):
            booted = server.log().count("Booting worker")
            server.signal(signal.SIGHUP)
            load.wait_for(lambda booted=booted: server.log().count("Booting worker") >= booted + 2)  # type: ignore[misc]
            answers = load.answers
            load.wait_for(lambda answers=answers: load.answers > answers + 50)  # type: ignore[misc]
    assert len(load.pids) > 2


def test_max_requests_loses_no_request(start: Start) -> None:
    server = start("--workers", "2", "--max-requests", "40")
    with closing(Load(server, keep_alive=True)) as load, closing(Load(server, keep_alive=False)) as other:
        load.wait_for(lambda: len(load.pids | other.pids) > 5)
    server.wait_for_log("Autorestarting worker after current request")


def test_a_worker_that_computes_for_ever_is_replaced_and_its_stack_is_in_the_log(start: Start) -> None:
    server = start("--timeout", "2")
    first = server.get("/")["pid"]
    with server.connect() as connection:
        connection.send(request("GET", "/busy"))
        server.wait_for_log("begun /busy")
        with takes(1, 15):
            server.wait_for_log("The worker hangs")
            assert server.get("/")["pid"] != first
    assert "in busy" in server.log()


def test_an_idle_worker_is_left_alone(start: Start) -> None:
    server = start("--timeout", "3")
    first = server.get("/")["pid"]
    with server.connect() as connection:
        # Requests that wait are no reason either.
        for _ in range(5):
            assert connection.request(request("GET", "/sleep")).status == 200
    assert server.get("/")["pid"] == first
    assert "WORKER TIMEOUT" not in server.log()


def test_the_access_log_is_gunicorns_and_usr1_opens_it_anew(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = start("--access-logfile", str(log), "--access-logformat", "%(m)s %(U)s %(s)s")
    moved = log.rename(tmp_path / "moved.log")
    server.signal(signal.SIGUSR1)
    deadline = time.monotonic() + TIMEOUT
    while not log.exists():
        assert time.monotonic() < deadline
        server.get("/again")
    assert moved.read_text().startswith("GET / 200\n")


def test_errors_go_to_gunicorns_error_log(start: Start) -> None:
    server = start()
    assert server.status(request("GET", "/fail")) == 500
    server.wait_for_log(r"\[ERROR\] Error handling request GET /fail")
    server.wait_for_log("RuntimeError: the application failed on purpose")


def test_settings_of_gunicorn_are_honoured(start: Start) -> None:
    server = start(
        *("--limit-request-line", "100", "--limit-request-fields", "5", "--header-map", "refuse"),
        *("--proxy-protocol", "auto", "--keep-alive", "0"),
    )
    assert server.status(request("GET", "/" + "x" * 100)) == 414
    assert server.status(request("GET", "/", *[f"X-{number}: 1" for number in range(6)])) == 431
    assert server.status(request("GET", "/", "X_Y: 1")) == 400
    with server.connect() as connection:
        header = b"PROXY TCP4 192.0.2.7 192.0.2.2 1 2\r\n"
        response = connection.request(header + request("GET", "/", "X-Forwarded-Proto: https"))
        assert response.ends_connection
        seen = json.loads(response.body)
    # The client that the header names is not among forwarded_allow_ips.
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("192.0.2.7", "http")
    assert server.get("/", "X-Forwarded-Proto: https")["wsgi.url_scheme"] == "https"


def test_what_is_not_there_yet_is_said(start: Start) -> None:
    server = start("--statsd-host", "127.0.0.1:8125")
    server.wait_for_log("rmeinheld takes no notice of the setting statsd_host yet")


def test_tls_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("")
    server = Gunicorn(tmp_path, ("--certfile", str(tmp_path / "pem"), "--keyfile", str(tmp_path / "pem")))
    try:
        assert server.wait() != 0
        assert "serves no TLS yet" in server.log()
    finally:
        server.kill()
