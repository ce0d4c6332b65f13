"""The log of slow requests: phases, waits, and the stack at the moment when the limit was crossed."""

from __future__ import annotations

import re
import time

import pytest

from serving import Serve, Server, request

APPLICATION = """
import threading
import time

import rmeinheld
from rmeinheld.coroutine import offload, spawn

gate = threading.Lock()


def wait_for_a_lock():
    gate.acquire()
    spawn(lambda: (time.sleep(0.5), gate.release()))
    gate.acquire()
    gate.release()


def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/sleep":
        time.sleep(0.5)
    if path == "/lock":
        wait_for_a_lock()
    if path == "/compute":
        compute(0.5)
    if path == "/offload":
        offload(compute, 0.5)
    if path == "/block":
        compute(0.1)
    if path == "/body":
        environ["wsgi.input"].read()
    if path == "/fail":
        time.sleep(0.5)
        raise RuntimeError("failed")
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        time.sleep(0.5)
        return [b"data: x\\n\\n"]
    start_response("200 OK", [])
    return [b"x" * 8_000_000 if path == "/large" else b"ok"]
"""

LIMIT = 0.2


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(APPLICATION, slow_request=LIMIT)


def slow_line(server: Server, target: str, start: int) -> str:
    """The record about a request, with the lines of its stack."""
    pattern = rf"\[WARNING\] (GET|POST) {re.escape(target)} from .*(\n  .*)*"
    return server.wait_for_log(re.compile(pattern), start=start)[0]


def phase(line: str, name: str) -> float:
    found = re.search(rf"\b{name} (?P<seconds>\d+\.\d{{3}}) s", line)
    assert found is not None, line
    return float(found["seconds"])


@pytest.mark.parametrize(
    ("target", "wait", "place"),
    [
        ("/sleep", "sleep", "in app"),
        ("/lock", "(lock|condition)", "in wait_for_a_lock"),
        ("/compute", None, "in compute"),
        ("/offload", "offload", "in app"),
        ("/fail", "sleep", "in app"),
    ],
)
def test_a_slow_request_is_logged_with_its_waits_and_its_stack(
    server: Server, target: str, wait: str | None, place: str
) -> None:
    start = len(server.log())
    server.get(f"{target}?token=secret&b=1")
    line = slow_line(server, f"{target}?token=***&b=***", start)
    assert "secret" not in line
    assert re.search(
        r"from 127\.0\.0\.1 took 0\.\d{3} s \(slow_request is 0\.2 s\), answered with (200|500): head", line
    )
    assert 0.4 < phase(line, "application") < 5
    assert phase(line, "head") == phase(line, "sending") == 0
    if wait is None:
        assert "it waited" not in line
    else:
        assert 0.3 < phase(line, f"it waited for {wait}") < 5
    stack = line.split("it was here (most recent call last):", 1)[1]
    assert place in stack
    assert LIMIT <= phase(line, "After") < 0.5
    assert len(re.findall(r"\[WARNING\] GET ", server.log()[start:])) == 1


def test_a_quick_request_and_a_stream_of_events_are_not_logged(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        for target in ("/", "/events", "/"):
            assert connection.request(request("GET", target)).status == 200
    server.get("/sleep")
    slow_line(server, "/sleep", start)
    assert len(re.findall(r"\[WARNING\] GET ", server.log()[start:])) == 1


def test_time_in_the_queue_and_time_for_the_head_are_kept_apart(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(b"GET /sleep?head HTTP/1.1\r\nHost: a\r\n")
        time.sleep(0.3)
        connection.send(b"\r\n")
        connection.read_response()
    line = slow_line(server, "/sleep?***", start)
    assert 0.25 < phase(line, "head") < 5
    # Requests of other clients that arrive together come one after the other.
    connections = [server.connect() for _ in range(5)]
    for connection in connections:
        # The server has accepted it.
        connection.request(request("GET", "/"))
    start = len(server.log())
    first = server.connect()
    first.send(request("GET", "/compute"))
    time.sleep(0.1)
    for connection in connections:
        connection.send(request("GET", "/block"))
    for connection in (first, *connections):
        connection.read_response()
        connection.close()
    # The last one has waited for all others.
    server.wait_for_log(r"\[WARNING\] GET /block from .* queue 0\.[2-9]", start=start)
    lines = re.findall(r"\[WARNING\] GET /block from .*", server.log()[start:])
    assert max(phase(line, "queue") for line in lines) >= 0.2
    assert all(phase(line, "application") < 2 for line in lines)


def test_a_slow_reader_counts_as_sending(server: Server) -> None:
    start = len(server.log())
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", "/large"))
        time.sleep(0.4)
        assert len(connection.read_response().body) == 8_000_000
    line = slow_line(server, "/large", start)
    assert phase(line, "sending") > 0.25
    assert "it waited for client" in line


def test_without_the_setting_nothing_is_logged(serve: Serve) -> None:
    server = serve(APPLICATION)
    server.get("/sleep")
    server.stop()
    assert "slow_request" not in server.log()


def test_records_of_slow_requests_have_their_ids(serve: Serve) -> None:
    source = """
    import logging, sys, time
    import rmeinheld
    from rmeinheld.logging import RequestFilter

    logging.basicConfig(stream=sys.stdout, format="%(request_id)s %(message)s")
    logging.getLogger().handlers[0].addFilter(RequestFilter())

    def app(environ, start_response):
        rmeinheld.sleep(0.1)
        start_response("200 OK", [])
        return [environ["rmeinheld.request_id"].encode()]

    rmeinheld.run(app, port=0, request_id="on", slow_request=0.05)
    """
    server = serve.script(source)
    found = server.get("/x").body.decode()
    server.wait_for_log(f"^{found} GET /x from 127.0.0.1 took")
