"""`rmeinheld --workers`: the end of a service by SIGTERM, SIGINT and SIGQUIT, and SIGWINCH."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import Masters, Service, wait_until
from serving import request, takes

type Start = Masters[Service]

APP = "service_app:app"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def test_term_finishes_requests_in_progress(start: Start) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    with service.connect() as connection:
        connection.send(request("GET", "/held"))
        service.wait_for_log("begun to wait")
        service.signal(signal.SIGTERM)
        service.wait_for_log("Handling signal: term")
        service.release()
        response = connection.read_response()
        assert (response.status, response.ends_connection) == (200, True)
    assert service.wait() == 0
    assert "Traceback" not in service.log()


def test_a_request_that_outlasts_graceful_timeout_is_answered_before_the_end(start: Start) -> None:
    service = start("--workers", "2", "--graceful-timeout", "1", app=APP)
    service.await_ready()
    with service.connect() as connection:
        connection.send(request("GET", "/sleep/60"))
        service.wait_for_log("begun to sleep")
        with takes(0.9, 5):
            service.signal(signal.SIGTERM)
            assert connection.read_response().status == 503
            assert service.wait() == 0


EARLY = """
import os, signal

def say(what):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.write(2, f"{what}: {sorted(one.name for one in blocked)}\\n".encode())

# Registered before that of the arbiter, so it runs before it.
os.register_at_fork(after_in_child=lambda: say("fork"))

def post_fork(server, worker):
    say("post_fork")
"""


def test_a_signal_that_reaches_a_worker_in_its_fork_waits_until_python_handles_it(start: Start, tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(EARLY)
    service = start("--workers", "2", "--config", str(tmp_path / "early.py"), app=APP)
    service.await_ready()
    assert service.log().count("\nfork: ['SIGINT', 'SIGQUIT', 'SIGTERM']\n") == 2
    assert service.log().count("\npost_fork: []\n") == 2


def ask(path: Path, target: str = "/") -> bytes:
    """The answer to a request on a Unix socket. OSError if there is none."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(request("GET", target, "Connection: close"))
        return sock.recv(65536)


def test_drain_delay_goes_on_accepting_and_keeps_the_path_of_a_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    admin = tmp_path / "admin.sock"
    addresses = ("--bind", f"unix:{path}", "--admin-bind", f"unix:{admin}")
    service = start("--workers", "2", "--drain-delay", "1", *addresses, app=APP)
    service.await_ready()
    assert ask(admin, "/ready").startswith(b"HTTP/1.1 200")
    with takes(1, 6):
        service.signal(signal.SIGTERM)
        service.wait_for_log(r"Not ready any more; accepting goes on for 1 s \(drain_delay\)")
        assert ask(admin, "/ready").startswith(b"HTTP/1.1 503")
        assert ask(admin, "/live").startswith(b"HTTP/1.1 200")
        assert service.get("/")["pid"] in service.workers()
        assert ask(path).startswith(b"HTTP/1.1 200")
        assert service.wait() == 0
    assert not path.exists()
    assert not admin.exists()


def test_drain_delay_is_no_part_of_a_reload(start: Start) -> None:
    service = start("--workers", "2", "--drain-delay", "60", app=APP)
    service.await_ready()
    service.signal(signal.SIGHUP)
    service.await_ready(2)
    wait_until(lambda: len(service.running()) == 2, service.log)
    service.signal(signal.SIGTERM)
    service.wait_for_log("accepting goes on for 60 s")
    with takes(0, 4):
        service.signal(signal.SIGINT)
        assert service.wait() == 0


def interrupt(service: Service) -> None:
    """Press Ctrl-C: the terminal sends SIGINT to all processes of the group."""
    for pid in [service.pid, *service.running()]:
        os.kill(pid, signal.SIGINT)


def test_the_first_interrupt_drains_and_the_second_ends_within_a_second(start: Start) -> None:
    service = start("--workers", "2", "--graceful-timeout", "30", app=APP)
    service.await_ready()
    with service.connect() as short, service.connect() as long:
        long.send(request("GET", "/sleep/60"))
        service.wait_for_log("begun to sleep")
        seen = len(service.log())
        short.send(request("GET", "/held"))
        service.wait_for_log("begun to wait", start=seen)
        interrupt(service)
        service.wait_for_log("Handling signal: int")
        service.release()
        assert short.read_response().status == 200
        assert service.popen.poll() is None
        begun = time.monotonic()
        interrupt(service)
        assert service.wait() == 0
        taken = time.monotonic() - begun
    print(f"ended {taken:.2f} s after the second Ctrl-C")
    # A busy machine has two seconds more; without the second interrupt it would be thirty.
    assert taken < 3
    assert "Traceback" not in service.log()


def test_an_interrupt_says_what_the_service_waits_for(start: Start) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    with service.connect() as connection:
        connection.send(request("GET", "/held"))
        service.wait_for_log("begun to wait")
        interrupt(service)
        service.wait_for_log(r"1 request.*GET /held.*Ctrl-C")
        service.release()
        assert connection.read_response().status == 200
    assert service.wait() == 0


def test_an_interrupt_of_the_master_alone_logs_what_the_service_waits_for(start: Start) -> None:
    service = start("--workers", "2", "--graceful-timeout", "30", app=APP)
    service.await_ready()
    with service.connect() as connection:
        connection.send(request("GET", "/sleep/60"))
        service.wait_for_log("begun to sleep")
        service.signal(signal.SIGINT)
        service.wait_for_log(r"\[WARNING\] waiting for 1 request, oldest \d+ s: GET /sleep/60; press Ctrl-C again")
        with takes(0, 3):
            service.signal(signal.SIGINT)
            assert service.wait() == 0
    assert "Traceback" not in service.log()


def test_quit_ends_at_once(start: Start) -> None:
    service = start("--workers", "2", "--graceful-timeout", "30", app=APP)
    service.await_ready()
    with service.connect() as connection:
        connection.send(request("GET", "/sleep/60"))
        service.wait_for_log("begun to sleep")
        with takes(0, 5):
            service.signal(signal.SIGQUIT)
            assert service.wait() == 0


def test_winch_stops_the_workers_and_hup_starts_others(tmp_path: Path) -> None:
    """Without a terminal, SIGWINCH cannot come from the size of its window."""
    service = Service(tmp_path, ("--workers", "2"), APP, new_session=True)
    try:
        service.await_socket()
        service.await_ready()
        service.signal(signal.SIGWINCH)
        wait_until(lambda: not service.running(), service.log)
        seen = len(service.log())
        service.signal(signal.SIGHUP)
        service.wait_for_log("Workers ready: 2", start=seen)
        service.end()
    finally:
        service.kill()
