"""`rmeinheld --workers --sticky`: a live connection moves to the worker that its next request belongs to."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from certificates import make_certificate
from frames import FIN, TEXT, Client, frame
from masters import Masters, Service, is_stopped, wait_until
from serving import TIMEOUT, Connection, request

type Start = Masters[Service]

APP = "moved_app:app"
HEADER = ("--workers", "2", "--sticky", "header:X-Session")
ADDRESS = ("--workers", "2", "--sticky", "ip")

MORE_THAN_A_QUEUE = 600
"""Connections: the kernel holds about 280 short messages between two workers, and the sender 64 with descriptors."""


class Home(NamedTuple):
    """A worker, and the field of a session that belongs to it."""

    pid: int
    field: str


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers with sticky sessions by a header."""
    masters = Masters(tmp_path_factory.mktemp("moves"), Service)
    options = ("--keep-alive", "60", "--proxy-protocol", "v1", "--proxy-allow-ips", "127.0.0.1")
    service = masters(*HEADER, *options, "--access-logfile", "access.log", app=APP)
    service.await_ready()
    yield service
    masters.stop()


def answer(connection: Connection, data: bytes) -> dict[str, Any]:
    """The application's answer to one request."""
    response = connection.request(data)
    assert response.status == 200, response
    seen: dict[str, Any] = json.loads(response.body)
    return seen


def homes(service: Service) -> tuple[Home, Home]:
    """Both workers, each with a session."""
    found: dict[int, Home] = {}
    for number in range(100):
        field = f"X-Session: s{number}"
        pid = service.get("/", field)["pid"]
        found.setdefault(pid, Home(pid, field))
        if len(found) == 2:
            one, two = found.values()
            return one, two
    raise AssertionError(f"all sessions belong to {found}")


def at(service: Service, home: Home) -> Connection:
    """A connection that the worker has."""
    connection = service.connect()
    assert answer(connection, request("GET", "/", home.field))["pid"] == home.pid
    return connection


def test_each_request_of_a_connection_is_served_by_the_worker_of_its_session(service: Service) -> None:
    one, two = homes(service)
    with service.connect() as connection:
        host, port = connection.socket.getsockname()
        for count, home in zip(range(20), cycle([one, two, two, one]), strict=False):
            seen = answer(connection, request("GET", f"/{count}", home.field))
            assert (seen["pid"], seen["PATH_INFO"]) == (home.pid, f"/{count}")
            assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"], seen["SERVER_PORT"]) == (
                host,
                str(port),
                str(service.port),
            )


def test_requests_without_a_session_stay_where_they_are(service: Service) -> None:
    for home in homes(service):
        with at(service, home) as connection:
            assert answer(connection, request("GET", "/"))["pid"] == home.pid


def test_a_pipeline_of_several_sessions_is_answered_whole_and_in_order(service: Service) -> None:
    one, two = homes(service)
    order = [one, two, one, one, two, two, one]
    bodies = [b"%d" % index * (index % 3) * 7 for index in range(len(order))]
    requests = [
        request("POST", f"/{index}", home.field, body=body)
        for index, (home, body) in enumerate(zip(order, bodies, strict=True))
    ]
    for pieces in ([b"".join(requests)], requests, [bytes([byte]) for byte in b"".join(requests)]):
        with service.connect() as connection:
            for piece in pieces:
                connection.send(piece)
            for index, (home, body) in enumerate(zip(order, bodies, strict=True)):
                seen = json.loads(connection.read_response().body)
                assert (seen["pid"], seen["PATH_INFO"], seen["body"]) == (home.pid, f"/{index}", body.decode())
            # An answer that says it is the last one ends the connection, whichever worker has it.
            connection.send(request("GET", "/last", one.field, "Connection: close"))
            assert connection.read_response().ends_connection
            connection.expect_end()


@pytest.mark.parametrize("coding", ["sized", "chunked"])
def test_a_body_that_has_begun_to_arrive_is_read_whole(service: Service, coding: str) -> None:
    one, two = homes(service)
    body = os.urandom(150_000).hex().encode()
    for home, other in ((one, two), (two, one)):
        pieces = [body[:10], body[10:99_000], body[99_000:]]
        sized, chunks = (body, None) if coding == "sized" else (None, pieces)
        data = request("POST", "/", home.field, body=sized, chunks=chunks)
        head = data.index(b"\r\n\r\n") + 4
        for end in (head, head + 5, head + 40_000):
            with at(service, other) as connection:
                connection.send(data[:end])
                # The rest may come before or after the move: both have to be right.
                connection.send(data[end:] + request("GET", "/next", other.field))
                seen = json.loads(connection.read_response().body)
                assert (seen["pid"], seen["length"], seen["body"]) == (home.pid, len(body), body[:100].decode())
                assert json.loads(connection.read_response().body)["pid"] == other.pid


def test_a_body_that_is_waited_for_after_the_move_arrives(service: Service) -> None:
    one, two = homes(service)
    with at(service, one) as connection:
        connection.send(request("POST", "/", two.field, "Expect: 100-continue", "Content-Length: 5"))
        head, _ = connection.read_head()
        assert head.status == 100
        connection.send(b"hello")
        seen = json.loads(connection.read_response().body)
        assert (seen["pid"], seen["body"]) == (two.pid, "hello")


def test_http_1_0_moves_too(service: Service) -> None:
    one, two = homes(service)
    with at(service, one) as connection:
        seen = answer(connection, request("GET", "/", two.field, "Connection: keep-alive", version="1.0"))
        assert (seen["pid"], seen["SERVER_PROTOCOL"]) == (two.pid, "HTTP/1.0")
        seen = answer(connection, request("GET", "/", one.field, version="1.0"))
        assert seen["pid"] == one.pid
        connection.expect_end()


def test_the_upgrade_to_a_websocket_moves_with_its_first_frames(service: Service) -> None:
    for home in homes(service):
        with Client(service, "/echo", home.field, early=frame(FIN | TEXT, b"early")) as client:  # type: ignore[arg-type]
            assert [client.text(), client.text()] == [str(home.pid), "early"]
            client.send(frame(FIN | TEXT, b"late"))
            assert client.text() == "late"


def test_the_client_that_a_proxy_has_named_moves_with_the_connection(service: Service) -> None:
    one, two = homes(service)
    with service.connect() as connection:
        connection.send(b"PROXY TCP4 192.0.2.7 192.0.2.80 4321 80\r\n")
        for home in (one, two, one):
            seen = answer(connection, request("GET", "/", home.field))
            assert seen["pid"] == home.pid
            assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"], seen["PROXY_ADDR"]) == ("192.0.2.7", "4321", "192.0.2.80")


def test_each_request_has_one_line_in_the_access_log(service: Service) -> None:
    one, two = homes(service)
    with service.connect() as connection:
        for count, home in zip(range(6), cycle([one, two]), strict=False):
            answer(connection, request("GET", f"/logged/{count}", home.field))
    log = service.directory / "access.log"
    wait_until(lambda: log.read_text().count("/logged/") >= 6, log.read_text)
    assert sorted(re.findall(r"GET /logged/(\d)", log.read_text())) == list("012345")


def test_a_client_that_ends_its_side_gets_the_answer_of_the_sibling(service: Service) -> None:
    one, two = homes(service)
    for home, other in ((one, two), (two, one)):
        with at(service, other) as connection:
            connection.send(request("GET", "/", home.field))
            connection.finish_sending()
            assert json.loads(connection.read_response().body)["pid"] == home.pid
            connection.expect_end()


def test_a_bad_request_behind_a_move_is_refused_by_the_sibling(service: Service) -> None:
    one, two = homes(service)
    with at(service, one) as connection:
        connection.send(request("GET", "/", two.field) + b"GET / HTTP/9.9\r\n\r\n")
        assert json.loads(connection.read_response().body)["pid"] == two.pid
        assert connection.read_response().status == 505
        connection.expect_end()


# --- faults: services of their own -----------------------------------------------------------------------------------


def test_a_sibling_that_is_killed_with_connections_on_their_way_gives_no_answer(start: Start) -> None:
    service = start(*HEADER, "--keep-alive", "60", app=APP)
    service.await_ready()
    one, two = homes(service)
    with ExitStack() as kept:
        # The kernel may wake a stopped process for a new connection, so all are open before.
        probe, *connections = (kept.enter_context(at(service, one)) for _ in range(6))
        os.kill(two.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(two.pid), service.log)
        for connection in connections:
            connection.send(request("POST", "/", two.field, body=b"x") + request("GET", "/", one.field))
        # The sender has handed them over once it answers a later request.
        assert answer(probe, request("GET", "/", one.field))["pid"] == one.pid
        assert not any(connection.has_input(0) for connection in connections)
        os.kill(two.pid, signal.SIGKILL)
        for connection in connections:
            assert connection.read_to_end() == b""
    service.await_ready(2)
    wait_until(lambda: service.get("/", two.field)["pid"] not in (one.pid, two.pid), service.log)


def test_a_sibling_that_takes_no_more_is_answered_for_with_503(start: Start) -> None:
    service = start(*HEADER, "--keep-alive", "60", app=APP)
    service.await_ready()
    one, two = homes(service)
    with ExitStack() as kept:
        probe, *connections = (kept.enter_context(at(service, one)) for _ in range(MORE_THAN_A_QUEUE))
        os.kill(two.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(two.pid), service.log)
        waiting: list[Connection] = []
        for connection in connections:
            connection.send(request("GET", "/", two.field))
            # The answer to a later request of the same worker: the one before has been decided.
            assert answer(probe, request("GET", "/", one.field))["pid"] == one.pid
            if connection.has_input(0):
                break
            waiting.append(connection)
        refused = connection.read_response()
        assert refused.status == 503
        assert refused.ends_connection
        service.wait_for_log(r"503 from 127\.0\.0\.1: GET /: it belongs to the worker of slot \d+, .* messages wait")
        os.kill(two.pid, signal.SIGCONT)
        for connection in waiting:
            assert json.loads(connection.read_response().body)["pid"] == two.pid
    print(f"{len(waiting)} connections waited for the stopped worker")
    assert len(waiting) >= 64
    assert service.get("/", two.field)["pid"] == two.pid


def test_a_sibling_that_computes_for_seconds_is_waited_for(start: Start) -> None:
    service = start(*HEADER, app=APP)
    service.await_ready()
    one, two = homes(service)
    with at(service, two) as busy, at(service, one) as waiting:
        busy.send(request("GET", "/compute/2", two.field))
        service.wait_for_log(rf"\[{two.pid}\].* has blocked the loop for 1\.")
        assert answer(waiting, request("GET", "/", two.field))["pid"] == two.pid
        assert json.loads(busy.read_response().body)["pid"] == two.pid


def test_a_sibling_that_computes_for_too_long_gets_no_further_connection(start: Start) -> None:
    service = start(*HEADER, "--block-warning", "5.1", "--keep-alive", "60", app=APP)
    service.await_ready()
    one, two = homes(service)
    with at(service, two) as busy, at(service, one) as free:
        busy.send(request("GET", "/compute/9", two.field))
        service.wait_for_log(rf"\[{two.pid}\].* has blocked the loop for [5-8]\.")
        assert service.status(request("GET", "/", two.field)) == 503
        service.wait_for_log(
            r"belongs to the worker of slot \d+, which cannot take it: its loop has not turned for \d\.\d s"
        )
        assert answer(free, request("GET", "/", one.field))["pid"] == one.pid
        assert json.loads(busy.read_response().body)["pid"] == two.pid
        assert service.get("/", two.field)["pid"] == two.pid


def test_a_sibling_at_its_limit_of_connections_refuses_with_503(start: Start) -> None:
    service = start(*HEADER, "--max-connections", "3", app=APP)
    service.await_ready()
    one, two = homes(service)
    with ExitStack() as kept:
        connection = kept.enter_context(at(service, one))
        held = [kept.enter_context(at(service, two)) for _ in range(3)]
        for each in held:
            each.send(request("GET", "/held", two.field))
        wait_until(lambda: service.log().count("begun to wait") == 3, service.log)
        assert connection.request(request("GET", "/", two.field)).status == 503
        connection.expect_end()
        service.wait_for_log(r"503 from 127\.0\.0\.1: GET /: a sibling has handed it over\. 3 connections are open")
        service.release()
        for each in held:
            assert json.loads(each.read_response().body)["pid"] == two.pid
    # The worker has room once it has noticed the ends of the connections.
    wait_until(lambda: service.status(request("GET", "/", two.field)) == 200, service.log)


def test_no_request_is_lost_while_the_workers_are_replaced(start: Start) -> None:
    service = start(*HEADER, "--keep-alive", "60", app=APP)
    service.await_ready()

    def ask() -> None:
        with service.connect() as connection:
            for number in range(20):
                response = connection.request(request("GET", "/", f"X-Session: s{number}"))
                assert response.status == 200, (number, response)
                if response.ends_connection:
                    return

    def is_replaced(before: set[int]) -> bool:
        ask()
        running = set(service.running())
        return len(running) == 2 and not before & running

    for _ in range(3):
        before = set(service.running())
        service.signal(signal.SIGHUP)
        wait_until(lambda before=before: is_replaced(before), service.log)  # type: ignore[misc]


# --- by address ------------------------------------------------------------------------------------------------------


def worker_of(service: Service, source: str) -> int:
    with Connection(("127.0.0.1", service.port), source=source) as connection:
        pid: int = answer(connection, request("GET", "/"))["pid"]
        return pid


def sources(service: Service) -> dict[int, str]:
    """An address of clients for each worker."""
    found: dict[int, str] = {}
    for last in range(2, 60):
        found.setdefault(worker_of(service, f"127.0.0.{last}"), f"127.0.0.{last}")
        if len(found) == 2:
            return found
    raise AssertionError(f"all addresses belong to {found}")


def test_an_address_that_belongs_to_a_worker_that_computes_is_served_by_another(start: Start) -> None:
    service = start(*ADDRESS, app=APP)
    service.await_ready()
    (one, _), (two, source) = sources(service).items()
    for _ in range(10):
        assert worker_of(service, source) == two
    with Connection(("127.0.0.1", service.port), source=source) as busy:
        busy.send(request("GET", "/compute/3"))
        service.wait_for_log(rf"\[{two}\].* has blocked the loop for 1\.")
        assert worker_of(service, source) == one
        service.wait_for_log(r"to the worker of slot \d are served here for now, because its loop has not turned for")
        assert json.loads(busy.read_response().body)["pid"] == two
    assert worker_of(service, source) == two


def test_the_connections_of_an_address_move_before_the_handshake_of_tls(start: Start, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    class Secure(Service):
        def await_start(self) -> None:
            self.await_socket()
            self.await_ready()

    masters = Masters(tmp_path, Secure)
    try:
        options = ("--certfile", str(certificate.certificate), "--keyfile", str(certificate.key))
        service = masters(*ADDRESS, *options, app=APP)
        context = ssl.create_default_context(cafile=certificate.certificate)
        workers: dict[str, set[int]] = {}
        for last in list(range(2, 14)) * 2:
            source = f"127.0.0.{last}"
            with Connection(("127.0.0.1", service.port), source=source) as connection:
                connection.socket = context.wrap_socket(connection.socket, server_hostname="localhost")
                connection.socket.settimeout(TIMEOUT)
                seen = answer(connection, request("GET", "/"))
                assert seen["REMOTE_ADDR"] == source
                workers.setdefault(source, set()).add(seen["pid"])
        assert all(len(pids) == 1 for pids in workers.values()), workers
        assert len(set.union(*workers.values())) == 2, workers
    finally:
        masters.stop()
