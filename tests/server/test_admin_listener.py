"""The admin listener: `/live` and `/ready`, answered while Python imports, computes and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from health_probes import Address, await_status, connect, free_port, probe
from rmeinheld._rmeinheld import AdminListener, Scoreboard
from serving import TIMEOUT, Process, Serve, Server, command_of_server, environment_of_child, request

APP = """
import os
from rmeinheld.coroutine import sleep

def app(environ, start_response):
    if environ["PATH_INFO"] == "/compute":
        while True:
            pass
    while environ["PATH_INFO"] == "/wait" and not os.path.exists("go"):
        sleep(0.01)
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""

FAST = 0.25
"""Seconds for one answer while Python computes. It takes under 5 ms; a busy machine takes its time."""


@pytest.fixture
def listening() -> Iterator[tuple[Address, Scoreboard]]:
    """An admin listener of this process whose service has one worker, which is ready, and a limit of 60 s."""
    board = Scoreboard(8)
    slot = board.reserve()
    board.set_state(slot, "ready")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        admin = AdminListener(listener.fileno(), board, 1, 60.0)
        admin.start()
        yield listener.getsockname(), board
        admin.stop()


type Listening = tuple[Address, Scoreboard]


def test_probes_are_answered_with_a_text_that_says_why(listening: Listening) -> None:
    address, board = listening
    response = probe(address, "/live")
    assert (response.status, response.body) == (200, b"live: process %d\n" % os.getpid())
    assert response.header("Content-Type") == "text/plain; charset=utf-8"
    assert response.header("Cache-Control") == "no-store"
    assert probe(address, "/ready").body == b"ready: 1 of 1 workers\n"
    board.set_state(0, "draining")
    response = probe(address, "/ready")
    assert response.status == 503
    assert response.body == (
        b"not ready: 0 of 1 workers are ready, and ready_workers is 1\nworker 0 (process 0): it ends\n"
    )
    assert probe(address, "/ready", "HEAD").header("Content-Length") == str(len(response.body))
    board.is_stopping = True
    assert probe(address, "/ready").body == b"not ready: the service stops\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /live HTTP/1.0\r\n\r\n", 200),
        (b"GET /ready?all HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"\r\nGET /live HTTP/1.1\r\nHost: a\r\n\r\nGET /live HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /live/ HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /live HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /live HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"GET /live HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /live HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 9000, 431),
        (b"GET /live HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    ],
)
def test_each_request_has_its_status(listening: Listening, data: bytes, status: int) -> None:
    with closing(connect(listening[0])) as connection:
        connection.send(data)
        assert connection.read_response().status == status
        connection.expect_end()
    assert probe(listening[0], "/live").status == 200


def test_a_405_names_the_methods(listening: Listening) -> None:
    with closing(connect(listening[0])) as connection:
        assert connection.request(request("DELETE", "/ready")).header("Allow") == "GET, HEAD"


def test_slow_and_silent_clients_have_two_seconds_and_hold_up_no_other(listening: Listening) -> None:
    address = listening[0]
    # More than the listener keeps, so that the oldest make room for the newest.
    silent = [connect(address) for _ in range(100)]
    slow = connect(address)
    slow.send(b"GET /live HTTP/1.1\r\n")
    started = time.monotonic()
    assert probe(address, "/live").status == 200
    assert slow.read_response().status == 408
    slow.expect_end()
    assert 1.5 < time.monotonic() - started < 12
    for connection in silent:
        connection.expect_end()
        connection.close()
    slow.close()
    assert probe(address, "/live").status == 200


def test_a_client_that_goes_away_at_any_time_does_no_harm(listening: Listening) -> None:
    for data in (b"", b"GET", request("GET", "/live"), request("GET", "/ready") * 100):
        connection = connect(listening[0])
        connection.send(data)
        connection.abort()
    assert probe(listening[0], "/live").status == 200


def test_a_worker_whose_loop_does_not_turn_within_the_limit_is_not_ready() -> None:
    board = Scoreboard(1)
    slot = board.reserve()
    board.claim(slot)
    board.set_state(slot, "ready")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        admin = AdminListener(listener.fileno(), board, 1, 0.2)
        admin.start()
        body = await_status(listener.getsockname(), 503).body.decode()
        admin.stop()
    assert re.search(r"it computes: its loop has not turned for 0\.\d s \(the limit is 0\.2 s\)$", body), body


def test_a_listener_that_stops_still_answers_a_client_that_it_has_accepted() -> None:
    board = Scoreboard(1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        admin = AdminListener(listener.fileno(), board)
        admin.start()
        with closing(connect(listener.getsockname())) as connection:
            connection.send(b"GET /live HTTP/1.1\r\n")
            # The thread has accepted the connection before this one.
            assert probe(listener.getsockname(), "/live").status == 200
            stopping = threading.Thread(target=admin.stop)
            stopping.start()
            connection.send(b"Host: a\r\n\r\n")
            assert connection.read_response().status == 200
            stopping.join()


def test_the_socket_is_free_after_the_stop_and_a_second_start_is_an_error() -> None:
    board = Scoreboard(1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        admin = AdminListener(listener.fileno(), board)
        admin.start()
        with pytest.raises(RuntimeError, match="has been started already"):
            admin.start()
        admin.stop()
        admin.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    with pytest.raises(OSError, match="the admin listener, cannot be used"):
        AdminListener(-1, board)
    with pytest.raises(ValueError, match="turn_limit is a number of seconds from 0, not -1"):
        AdminListener(0, board, 1, -1.0)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_single_process_is_ready_from_its_start_to_its_stop(serve: Serve, tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "admin")
    port = free_port()
    bind, address = (path, path) if kind == "unix" else (f"127.0.0.1:{port}", ("127.0.0.1", port))
    server = serve(APP, admin_bind=bind)
    assert await_status(address, 200).body == b"ready: 1 of 1 workers\n"
    with server.connect() as connection:
        connection.send(request("GET", "/wait"))
        await_status(address, 200)
        server.signal(signal.SIGTERM)
        assert b"it ends" in await_status(address, 503).body
        assert probe(address, "/live").status == 200
        (tmp_path / "go").touch()
        assert connection.read_response().status == 200
    assert server.wait() == 0
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        connect(address)
    assert not Path(path).exists()


def test_readiness_fails_at_once_while_drain_delay_lets_a_single_process_go_on(serve: Serve) -> None:
    address = ("127.0.0.1", free_port())
    server = serve(APP, admin_bind=f"127.0.0.1:{address[1]}", drain_delay=30)
    await_status(address, 200)
    server.signal(signal.SIGTERM)
    await_status(address, 503)
    assert server.get("/").status == 200
    assert probe(address, "/live").status == 200
    server.signal(signal.SIGQUIT)
    assert server.wait() == 0


def test_a_process_lives_and_is_not_ready_while_it_imports(tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port())
    go = tmp_path / "go"
    (tmp_path / "slow.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    pass\nimport rmeinheld\n{APP}"
    )
    command = command_of_server("slow:app", ["--admin-bind", f"127.0.0.1:{address[1]}"])
    process = Process(command, tmp_path, environment_of_child(tmp_path))
    try:
        await_status(address, 200, "/live")
        assert b"it starts and imports the application" in await_status(address, 503).body
        go.touch()
        assert await_status(address, 200).body == b"ready: 1 of 1 workers\n"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.kill()


def compute(server: Server) -> None:
    """Have the server compute for ever, and return once it does."""
    connection = server.connect()
    connection.send(request("GET", "/compute"))
    before = server.cpu_seconds()
    deadline = time.monotonic() + 10
    while server.cpu_seconds() < before + 0.1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_probes_are_answered_while_python_computes(serve: Serve) -> None:
    address = ("127.0.0.1", free_port())
    server = serve(APP, admin_bind=f"127.0.0.1:{address[1]}", graceful_timeout=0)
    await_status(address, 200)
    compute(server)
    times = []
    for _ in range(20):
        started = time.monotonic()
        # The limit of a turn has not passed at first.
        assert probe(address, "/ready").status in (200, 503)
        times.append(time.monotonic() - started)
    assert sorted(times)[10] < FAST, times
    assert probe(address, "/live").status == 200
    server.kill()


def test_an_address_that_is_taken_or_wrong_is_an_error_of_the_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for text, why in (
            (f"127.0.0.1:{listener.getsockname()[1]}", "cannot listen on .*: Address already in use"),
            ("127.0.0.1:x", "has no valid port"),
        ):
            process = Process(
                [sys.executable, "-m", "rmeinheld", "--admin-bind", text, "no_such_module:app"],
                tmp_path,
                environment_of_child(tmp_path),
            )
            try:
                process.wait_for_log(f"rmeinheld: error: .*admin.bind.*{why}")
                assert process.wait() == 1
            finally:
                process.kill()


def test_a_forked_child_does_not_keep_the_address(serve: Serve) -> None:
    address = ("127.0.0.1", free_port())
    server = serve(
        """
        import os, time
        def app(environ, start_response):
            child = os.fork()
            if not child:
                time.sleep(600)
            body = str(child).encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        """,
        admin_bind=f"127.0.0.1:{address[1]}",
    )
    child = int(server.get("/").body)
    try:
        server.signal(signal.SIGTERM)
        assert server.popen.wait(TIMEOUT) == 0
        os.kill(child, 0)
        with pytest.raises(ConnectionRefusedError):
            connect(address)
    finally:
        os.kill(child, signal.SIGKILL)
