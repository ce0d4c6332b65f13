"""`environ["gunicorn.socket"]`: the connection of a client in a library, which behaves as a `socket.socket`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from frames import HANDSHAKE
from serving import Connection, Serve, Server, program, request, takes

APPLICATION = program("taken_over")


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server for all tests that do not stop it."""
    return serve_module(APPLICATION)


def taken(server: Server, path: str, early: bytes = b"") -> Connection:
    """A connection that the application has taken over."""
    connection = server.connect(receive_buffer=16384)
    connection.send(request("GET", path, *HANDSHAKE) + early)
    assert connection.read_head()[0].reason == "Mine"
    return connection


def results(server: Server, path: str) -> Iterator[str]:
    """The lines that the application prints."""
    number = 0
    while True:
        yield server.wait_for_log(rf"^{path} {number} (.*)\n")[1]
        number += 1


def test_flags_work_as_on_an_ordinary_socket(server: Server) -> None:
    with taken(server, "/flags", b"early bytes") as connection:
        lines = results(server, "/flags")
        assert next(lines) == "(b'early bytes', b'ear', b'ear', b'ly bytes')"
        assert connection.read_exactly(4) == b"next"
        connection.send(b"peek")
        assert next(lines) == "(b'pe', True)"
        assert next(lines) == "(b'peek', b'peek')"
        assert next(lines) == "('BlockingIOError', 'BlockingIOError')"
        assert connection.read_exactly(4) == b"next"
        connection.send_slowly(b"ten bytes!", pause=0.01)
        assert next(lines) == "b'ten bytes!'"
        assert connection.read_exactly(4) == b"next"
        connection.send(b"into")
        assert next(lines) == "(4, b'into', 4, b'into')"
        assert next(lines) == "['ValueError', 'ValueError', 'ValueError']"
        assert next(lines) == "('ValueError', 'ValueError')"
        assert next(lines) == "('BlockingIOError', 'BlockingIOError', 'BlockingIOError')"


def test_a_call_with_timeout_0_does_not_wait_for_a_client_that_reads_nothing(server: Server) -> None:
    with taken(server, "/full"):
        lines = results(server, "/full")
        assert next(lines) == "('BlockingIOError', True)"
        assert next(lines) == "('TimeoutError', True)"
        assert next(lines) == "BlockingIOError"
        assert next(lines) == "BlockingIOError"


def test_a_timeout_limits_the_whole_call(server: Server) -> None:
    with taken(server, "/drips") as connection:
        lines = results(server, "/drips")
        with pytest.raises(AssertionError):
            connection.timeout = 0.2
            connection.socket.settimeout(0.2)
            while len(connection.buffer) < 40_000_000:
                assert connection.receive()
        assert next(lines) == "('TimeoutError', True)"


def test_bytes_that_have_arrived_can_be_read_after_shutdown(server: Server) -> None:
    with taken(server, "/shut", b"early") as connection:
        assert next(results(server, "/shut")) == "(b'early', b'')"
        connection.expect_end()


def test_at_a_stop_the_library_reads_the_bytes_that_have_arrived_and_then_the_end(serve: Serve) -> None:
    server = serve(APPLICATION, graceful_timeout=4)
    with taken(server, "/reads") as connection, taken(server, "/waits") as late, taken(server, "/reads") as idle:
        connection.send(b"x" * 700)
        late.send(b"this")
        server.signal(15)
        with takes(0, 5):
            assert idle.read_to_end().startswith(b"read 0 bytes")
            assert connection.read_to_end().startswith(b"read 700 bytes")
            assert late.read_to_end().startswith(b"read this")
            assert server.wait() == 0
