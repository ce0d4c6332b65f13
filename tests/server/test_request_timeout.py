"""`request_timeout`: one request ends, where it waits or while it computes, and nothing else."""

from __future__ import annotations

import re
import socket
import statistics
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from frames import Client, text
from serving import Serve, Server, request

APPLICATION = "time_limits_app:app"

LIMIT = 0.3
"""`request_timeout` of the tests, in seconds."""

SLACK = 1.5
"""Time that a busy machine may add. Without a limit, the requests take 30 s or never end."""

WAITS = "sleep lock our-lock queue simple-queue our-queue event socket tls offload asyncio thread join".split()

COMPUTES = ("spin", "spin-finally", "del")


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server that the tests of this module share."""
    return serve_module(APPLICATION, request_timeout=LIMIT)


def ask(server: Server, path: str, *fields: str) -> tuple[int, float]:
    """Return the status of the answer, and the seconds that it took."""
    begun = time.monotonic()
    with server.connect() as connection:
        status = connection.request(request("GET", path, *fields)).status
    return status, time.monotonic() - begun


def seen(server: Server) -> list[str]:
    """Return what the requests have noted since the last call."""
    with server.connect() as connection:
        return connection.request(request("GET", "/seen")).body.decode().splitlines()


@pytest.mark.parametrize("path", WAITS)
def test_a_request_that_waits_too_long_is_answered_504(server: Server, path: str) -> None:
    seen(server)
    status, seconds = ask(server, f"/{path}")
    noted = seen(server)
    if path == "thread" and sys.version_info < (3, 13):
        # Thread.join of Python 3.12 may itself fail if an exception ends its wait (bpo-45274).
        noted = [name.replace("AssertionError", "RequestTimeout") for name in noted]
    assert (status, noted) == (504, ["RequestTimeout"])
    assert LIMIT <= seconds < LIMIT + SLACK
    print(f"{path}: {seconds:.3f} s")


@pytest.mark.parametrize("path", COMPUTES)
def test_a_request_that_computes_too_long_is_answered_504(server: Server, path: str) -> None:
    seen(server)
    status, seconds = ask(server, f"/{path}")
    assert status == 504
    assert seen(server)[-1] == "RequestTimeout"
    assert LIMIT <= seconds < LIMIT + SLACK
    print(f"{path}: {seconds:.3f} s")


def test_a_request_that_computes_is_ended_alone(server: Server) -> None:
    # From CPython 3.14 on, all coroutines have the number of one thread.
    with ThreadPoolExecutor(20) as pool:
        others = [pool.submit(ask, server, "/moved?set=None") for _ in range(19)]
        spinning = [pool.submit(ask, server, "/spin") for _ in range(2)]
        assert {future.result()[0] for future in others} == {200}
        assert {future.result()[0] for future in spinning} == {504}


def test_the_log_has_the_stack_of_a_request_that_is_ended(server: Server) -> None:
    for path, function, does in (("sleep", "cooperative_sleep", "waits"), ("spin", "spin", "computes")):
        start = len(server.log())
        ask(server, f"/{path}?token=secret")
        server.wait_for_log(rf"request GET /{path}\?token=\*\*\* \(after 0\.\d+ s\) is ended: .* It {does} at", start)
        server.wait_for_log(rf'  File ".*", line \d+, in {function}$', start)


def test_the_line_of_a_request_that_is_ended_has_its_id(serve: Serve) -> None:
    server = serve(APPLICATION, request_timeout=LIMIT, request_id="on")
    ask(server, "/sleep")
    server.wait_for_log(r"request GET /sleep \(after \d+\.\d+ s, id [0-9a-f]{32}\) is ended")


def test_each_of_many_requests_that_end_at_once_has_one_line(server: Server) -> None:
    start = len(server.log())
    with ThreadPoolExecutor(50) as pool:
        statuses = [pool.submit(ask, server, f"/sleep?n{number}=1") for number in range(50)]
        assert {future.result()[0] for future in statuses} == {504}
    for number in range(50):
        server.wait_for_log(rf"request GET /sleep\?n{number}=\*\*\* \(after", start)
    lines = re.findall(r"request GET /sleep\?n\d+=\*\*\* \(after \d\.\d+ s\) is ended.*\n  File", server.log()[start:])
    assert len(lines) == 50


def test_nested_finally_blocks_run_and_may_wait(server: Server) -> None:
    seen(server)
    assert ask(server, "/finally")[0] == 504
    assert seen(server) == ["inner", "outer", "RequestTimeout"]


@pytest.mark.parametrize("path", ["catch-wait", "catch-spin"])
def test_an_application_that_goes_on_gets_coroutine_exit_two_seconds_later(server: Server, path: str) -> None:
    seen(server)
    status, seconds = ask(server, f"/{path}")
    assert (status, seen(server)) == (504, ["caught", "exit", "CoroutineExit"])
    assert LIMIT + 2 <= seconds < LIMIT + 2 + SLACK


def test_the_answer_is_504_whatever_the_application_returns(server: Server) -> None:
    with server.connect() as connection:
        answer = connection.request(request("GET", "/return"))
        assert (answer.status, answer.ends_connection) == (504, False)
        # Request and response are whole, so the connection is used again.
        assert connection.request(request("GET", "/pid")).status == 200


@pytest.mark.parametrize("path", ["unseen", "unseen-items"])
def test_a_late_answer_is_504_even_if_nothing_could_interrupt_it(server: Server, path: str) -> None:
    seen(server)
    status, _ = ask(server, f"/{path}")
    assert (status, seen(server)) == (504, ["finished"])
    server.wait_for_log(rf"request GET /{path} \(after \d+\.\d+ s\) is ended: it has answered after its time")


def test_the_connection_closes_after_a_504_if_the_request_was_not_read(server: Server) -> None:
    with server.connect() as connection:
        head = request("POST", "/sleep", "Content-Length: 1000000")
        answer = connection.request(head + b"x" * 10)
        assert (answer.status, answer.ends_connection) == (504, True)


@pytest.mark.parametrize(
    ("path", "noted"), [("wait", ["part caught"]), ("spin", ["part caught"]), ("catch", ["part caught"])]
)
def test_a_response_that_has_begun_ends_in_a_reset(server: Server, path: str, noted: list[str]) -> None:
    seen(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as client:
        client.sendall(request("GET", f"/parts-{path}"))
        received = b""
        with pytest.raises(ConnectionResetError):
            while data := client.recv(4096):
                received += data
    assert b"first" in received and b"second" not in received
    assert seen(server)[:1] == noted


def test_c_code_ends_late_and_the_next_request_is_unharmed(server: Server) -> None:
    for path in ("c-sleep", "c-sleep-gil"):
        seen(server)
        status, seconds = ask(server, f"/{path}")
        # The signal by which the watchdog gets the stack may cut the sleep short.
        assert (status, 0.6 <= seconds) == (504, True)
        assert ask(server, "/pid")[0] == 200


@pytest.mark.parametrize("path", ["pattern", "sum"])
def test_c_code_that_computes_with_the_interpreter_ends_late(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    # A second or more of computing, which nothing can end.
    monkeypatch.setenv("PATTERN_LENGTH", "25")
    monkeypatch.setenv("SUM_LENGTH", "100_000_000")
    server = serve(APPLICATION, request_timeout=LIMIT)
    assert ask(server, f"/{path}")[0] == 504
    assert ask(server, "/pid")[0] == 200
    # The watchdog writes it, for which it waits for the interpreter as the next request does.
    server.wait_for_log(rf"request GET /{path}\b")
    server.wait_for_log({"pattern": "match_slowly", "sum": "sum_much"}[path])


@pytest.mark.parametrize(
    ("move", "status", "noted"),
    [
        ("set=0.1", 504, r"left 0\.0999?\d*|left 0\.1\d*"),
        ("set=5", 200, r"left (5\.0|4\.9)\d*"),
        ("set=None", 200, "left None"),
        ("at=0.1", 504, r"left 0\.(09|1)\d*"),
        ("at=5", 200, r"left (5\.0|4\.9)\d*"),
        ("set=-1", 200, "seconds must be a number of seconds >= 0, not -1"),
        ("set=nan", 200, "seconds must be a number of seconds >= 0, not nan"),
        ("set=inf", 200, "seconds must be a number of seconds >= 0, not inf"),
        ("at=nan", 200, "at must be a number of seconds >= 0, not nan"),
        ("at=-1e12", 200, r"at must be a number of seconds >= 0, not -\d+.*"),
    ],
)
def test_the_application_reads_and_moves_its_deadline(server: Server, move: str, status: int, noted: str) -> None:
    seen(server)
    assert ask(server, f"/moved?{move}")[0] == status
    (event,) = seen(server)
    assert re.fullmatch(noted, event)


@pytest.mark.parametrize("move", ["set=0", "at=-0.5"])
def test_a_deadline_in_the_past_ends_the_request_at_once(server: Server, move: str) -> None:
    status, seconds = ask(server, f"/moved?{move}")
    assert (status, seconds < LIMIT) == (504, True)
    assert ask(server, "/pid")[0] == 200


def test_coroutines_and_threads_inherit_a_deadline_only_if_asked(server: Server) -> None:
    seen(server)
    assert ask(server, "/inherit")[0] == 504
    deadline = time.monotonic() + 10
    events: list[str] = []
    while len(events) < 3 and time.monotonic() < deadline:
        events += seen(server)
        time.sleep(0.05)
    assert sorted(events) == ["coroutine ended", "free coroutine went on", "thread ended"]


def test_a_websocket_has_no_limit_unless_it_asks_for_one(server: Server) -> None:
    with Client(server, "/echo") as websocket:
        time.sleep(LIMIT * 2)
        websocket.send(text("hello"))
        assert websocket.text() == "hello"
    with Client(server, "/limited") as websocket:
        websocket.expect_close_from_server(1011)


def test_pipelined_requests_have_a_limit_each(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/sleep") + request("GET", "/pid") + request("GET", "/spin"))
        statuses = [connection.read_response().status for _ in range(3)]
    assert statuses == [504, 200, 504]


def test_others_keep_their_latency_while_requests_are_ended(server: Server) -> None:
    def latencies(seconds: float) -> list[float]:
        until = time.monotonic() + seconds
        found = []
        with server.connect() as connection:
            while time.monotonic() < until:
                begun = time.monotonic()
                assert connection.request(request("GET", "/pid")).status == 200
                found.append(time.monotonic() - begun)
        return found

    quiet = latencies(1.0)
    with ThreadPoolExecutor(50) as pool:
        ended = [pool.submit(ask, server, "/sleep") for _ in range(100)]
        busy = latencies(0.8)
        assert {future.result()[0] for future in ended} == {504}
    p99 = [statistics.quantiles(values, n=100)[98] * 1000 for values in (quiet, busy)]
    print(f"p99 of others: quiet {p99[0]:.2f} ms, during 100 504s {p99[1]:.2f} ms")
    # The clients of this test compete for the processor with the server.
    assert p99[1] < max(p99[0] * 10, 50)


def test_a_client_that_resets_ends_its_request_where_that_is_wished(serve: Serve) -> None:
    server = serve(APPLICATION, cancel_on_disconnect=True)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(request("GET", "/sleep"))
        time.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 10
    while (events := seen(server)) == [] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert events == ["ClientDisconnected"]


def test_a_client_that_ends_only_its_side_gets_its_answer(serve: Serve) -> None:
    server = serve(APPLICATION, cancel_on_disconnect=True)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(request("GET", "/moved?set=None", "Connection: close"))
        client.shutdown(socket.SHUT_WR)
        assert b" 200 OK" in client.makefile("rb").read()


def test_without_the_options_neither_ends_a_request(serve: Serve) -> None:
    server = serve(APPLICATION)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(request("GET", "/moved"))
        time.sleep(0.1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.5)
    assert seen(server) == ["left None"]
