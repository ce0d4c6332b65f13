"""Clients that read slowly: one that goes on reading is served to the end, and one that drips is given up."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from frames import HANDSHAKE
from serving import Serve, Server, program, request

APPLICATION = program("slow_readers")

PATHS = ("/items", "/whole", "/file", "/messages")

Start = Callable[..., Server]


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Start:
    """Start the application with some options, with and without TLS."""
    certificate = None
    if request.param == "tls":
        trustme = pytest.importorskip("trustme")
        certificate = str(tmp_path / "certificate.pem")
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)

    def start(**options: float) -> Server:
        source = APPLICATION.replace("CERTIFICATE = None", f"CERTIFICATE = {certificate!r}")
        server = serve.script(source.replace("OPTIONS = {}", f"OPTIONS = {options!r}"))
        server.is_secure = certificate is not None  # type: ignore[attr-defined]
        return server

    return start


def begin(server: Server, path: str) -> socket.socket:
    """Ask for something, on a connection with a small buffer."""
    connection: socket.socket = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    connection.settimeout(15)
    connection.connect(server.address)
    if server.is_secure:  # type: ignore[attr-defined]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    connection.sendall(request("GET", path, *(HANDSHAKE if path == "/messages" else ())))
    return connection


def take_slowly(connections: list[socket.socket], size: int, pause: float, until: Callable[[], bool]) -> list[int]:
    """Take this number of bytes of each response at a time. Returns how many there were."""
    taken = [0] * len(connections)
    while not until():
        for index, connection in enumerate(connections):
            with suppress(OSError):
                taken[index] += len(connection.recv(size))
        time.sleep(pause)
    return taken


def link_of(path: Path) -> str:
    """The target of a link; empty if the link has gone."""
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


def after(seconds: float) -> Callable[[], bool]:
    """Whether this time has passed."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def test_clients_that_go_on_taking_are_not_given_up(start: Start) -> None:
    # Some 100 KB a second each: the kernel reports after about a megabyte that it takes more.
    server = start(send_timeout=1)
    connections = [begin(server, path) for path in PATHS]
    taken = take_slowly(connections, 5000, 0.05, until=after(3))
    assert all(count > 50_000 for count in taken), taken
    assert "closed" not in server.log()
    # And nothing is missing. All are read in turn, so that none has to wait for another to end.
    rest = {path: (connection, count) for connection, path, count in zip(connections, PATHS, taken, strict=True)}
    rest.pop("/messages")[0].close()
    while rest:
        for path, (connection, count) in list(rest.items()):
            data = connection.recv(1 << 18)
            assert data, (path, count)
            rest[path] = (connection, count + len(data))
            if count + len(data) >= 12_000_000:
                rest.pop(path)[0].close()
    server.wait_for_log("closed /messages with .*1006")


def test_clients_that_drip_are_given_up(start: Start) -> None:
    server = start(send_timeout=1, min_send_rate=500_000)
    connections = [begin(server, path) for path in PATHS]

    def are_all_given_up() -> bool:
        links = map(link_of, Path(f"/proc/{server.pid}/fd").iterdir())
        # The scoreboard is in memory.
        files = [link for link in links if link.endswith("(deleted)") and not link.startswith("/memfd:")]
        return len(set(re.findall("closed (/[a-z]+) with", server.log()))) == len(PATHS) - 1 and not files

    late = after(12)
    take_slowly(connections, 5000, 0.05, until=lambda: are_all_given_up() or late())
    assert are_all_given_up(), server.log()
    assert "less than min_send_rate" in server.log()
    for connection in connections:
        connection.close()


def test_without_a_rate_clients_may_drip(start: Start) -> None:
    server = start(send_timeout=1, min_send_rate=0)
    connections = [begin(server, path) for path in PATHS]
    take_slowly(connections, 5000, 0.05, until=after(2.5))
    assert "closed" not in server.log()
    for connection in connections:
        connection.close()
