"""`environ["gunicorn.socket"]`: the connection of a client in a library, which behaves as a `socket.socket`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from frames import HANDSHAKE
from serving import Connection, Serve, Server, request, takes

APPLICATION = """
    import errno, select, socket, time

    import rmeinheld.coroutine

    HEAD = b"HTTP/1.1 101 Mine\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n"

    def outcome(call, *args):
        try:
            return call(*args)
        except Exception as error:
            return type(error).__name__

    def flags(client):
        PEEK, ALL, DONTWAIT = socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_DONTWAIT
        client.settimeout(10)
        yield client.recv(100, PEEK), client.recv(3, PEEK), client.recv(3), client.recv(100)  # came early
        client.sendall(b"next")
        yield client.recv(2, PEEK), select.select([client], [], [], 10)[0] == [client]
        yield client.recv(4, PEEK), client.recv(4)
        yield outcome(client.recv, 4, DONTWAIT), outcome(client.recv, 1, PEEK | DONTWAIT)
        client.sendall(b"next")
        yield client.recv(10, ALL)
        client.sendall(b"next")
        buffer = bytearray(4)
        yield client.recv_into(buffer, 0, PEEK), bytes(buffer), client.recv_into(buffer), bytes(buffer)
        yield [outcome(client.recv, 1, flag) for flag in (socket.MSG_OOB, socket.MSG_TRUNC, 1 << 24)]
        yield outcome(client.send, b"x", socket.MSG_OOB), outcome(client.sendall, b"x", socket.MSG_DONTROUTE)
        client.settimeout(0)
        yield outcome(client.recv, 1), outcome(client.recv, 1, PEEK), outcome(client.recv, 1, ALL)

    def full(client):
        much = bytes(50_000_000)
        for timeout in (0, 0.2):
            client.settimeout(timeout)
            started = time.monotonic()
            yield outcome(client.sendall, much), time.monotonic() - started < 5
        client.settimeout(0)
        yield [outcome(client.send, much) for _ in range(50)][-1]
        client.settimeout(None)
        yield [outcome(client.send, much, socket.MSG_DONTWAIT) for _ in range(50)][-1]

    def drips(client):
        # The timeout limits the whole call.
        client.settimeout(0.5)
        started = time.monotonic()
        yield outcome(client.sendall, bytes(50_000_000)), time.monotonic() - started < 5

    def shut(client):
        client.shutdown(socket.SHUT_RD)
        yield client.recv(100), client.recv(100)

    def app(environ, start_response):
        client, path = environ["gunicorn.socket"], environ["PATH_INFO"]
        client.sendall(HEAD)
        if path == "/reads":  # until the end, then says goodbye
            data = b""
            while more := client.recv(7):
                data += more
                rmeinheld.coroutine.sleep(0.01)
            client.sendall(b"read %d bytes" % len(data))
            return []
        if path == "/waits":
            rmeinheld.coroutine.sleep(0.5)
            client.sendall(b"read " + client.recv(10))
            return []
        for number, result in enumerate(globals()[path[1:]](client)):
            print(path, number, result, flush=True)
        return []
    """


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
    server = serve(APPLICATION, graceful_timeout=20)
    with taken(server, "/reads") as connection, taken(server, "/waits") as late, taken(server, "/reads") as idle:
        connection.send(b"x" * 700)
        late.send(b"this")
        server.signal(15)
        with takes(0, 5):
            assert idle.read_to_end().startswith(b"read 0 bytes")
            assert connection.read_to_end().startswith(b"read 700 bytes")
            assert late.read_to_end().startswith(b"read this")
            assert server.wait() == 0
