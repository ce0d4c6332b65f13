"""Items of a response that are ready at once share a write, and none is late (PEP 3333, "Buffering and Streaming")."""

from __future__ import annotations

import socket
import time

import pytest

import items_app
from serving import TIMEOUT, Connection, Serve, Server, request

SOON = items_app.PAUSE / 2
"""Seconds. An item is on its way after a millisecond; a busy machine needs longer to show it."""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module("items_app:app")


def whole_body(server: Server, path: str, version: str = "1.1") -> bytes:
    with server.connect() as connection:
        return connection.request(request("GET", path, version=version)).body


def arrivals(server: Server, path: str) -> list[tuple[float, bytes]]:
    """The parts of a response as recv(2) returned them, with the seconds until then."""
    found = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as sock:
        begun = time.monotonic()
        sock.sendall(request("GET", path, "Connection: close"))
        while data := sock.recv(1 << 20):
            found.append((time.monotonic() - begun, data))
    return found


def test_items_that_are_ready_share_a_write(server: Server) -> None:
    """One write is one arrival, since it is smaller than a segment of the loopback device."""
    counts = [len(arrivals(server, "/many")) for _ in range(20)]
    # The sender may come in between on a busy machine.
    assert counts.count(1) >= 10, counts
    assert whole_body(server, "/many") == items_app.ITEM * 10


@pytest.mark.parametrize("path", list(items_app.PAUSES))
def test_an_item_is_sent_before_what_follows_takes_a_while(server: Server, path: str) -> None:
    """Also while the application holds the interpreter, or blocks without telling anybody."""
    found = arrivals(server, path)
    first = next(at for at, data in found if b"first" in data)
    second = next(at for at, data in found if b"second" in data)
    assert first < SOON and second >= items_app.PAUSE, found


def test_what_was_yielded_before_an_error_goes_out_before_the_connection_breaks(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/fails"))
        connection.read_head()
        connection.read_until(b"first\r\n")
        connection.expect_end()


def test_a_forked_child_sends_nothing_of_its_parent(server: Server) -> None:
    for _ in range(5):
        assert whole_body(server, "/forks") == b"firstsecond"


def test_write_and_large_items_come_in_their_order(server: Server) -> None:
    assert whole_body(server, "/writes") == b"abc" + b"d" * 20_000 + b"e"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_of_many_items_is_whole(server: Server, version: str) -> None:
    expected = b"".join(b"%7d " % number * 125 for number in range(10_000))
    assert whole_body(server, "/large", version) == expected


def test_a_wait_begins_after_a_slow_client_has_taken_what_came_before(server: Server) -> None:
    expected = b"".join(b"%7d " % number * 125 for number in range(10_000)) + b"end"
    with server.connect() as connection:
        connection.send(request("GET", "/slow-client"))
        with server.connect() as other:
            # The other request is served while the first one's client takes nothing.
            assert other.request(request("GET", "/many")).body == items_app.ITEM * 10
        connection.read_head()
        assert b"".join(connection.read_chunks()) == expected


def test_a_client_that_leaves_ends_the_response(server: Server) -> None:
    start = len(server.log())
    connection: Connection = server.connect()
    connection.send(request("GET", "/slow-client"))
    connection.read_head()
    connection.close()
    assert whole_body(server, "/many") == items_app.ITEM * 10
    assert "Traceback" not in server.log()[start:]
