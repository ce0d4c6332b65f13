"""Children that are forked in a request and never call exec hold none of the server's descriptors.

A child inherits every descriptor, close-on-exec or not. Children and the application's descriptors are in
`test_processes.py`.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from masters import Gunicorn
from serving import Connection, Serve, Server, program, request

APPLICATION = program("forks")

FORKS = ["fork", "multi", "fork_in_c"]


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(APPLICATION, keep_alive=1)


@pytest.fixture
def children() -> Iterator[list[int]]:
    """The numbers of processes that the fixture ends."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def fork_by(connection: Connection, target: str, *headers: str, version: str = "1.1") -> int:
    return int(connection.request(request("GET", target, *headers, version=version)).body)


@pytest.mark.parametrize(
    ("how", "end"), [(how, end) for how in FORKS for end in ("close", "1.0")] + [("multi", "idle")]
)
def test_a_clients_connection_ends_although_a_child_lives(
    server: Server, children: list[int], how: str, end: str
) -> None:
    with server.connect() as connection:
        headers = ["Connection: close"] if end == "close" else []
        children.append(fork_by(connection, f"/{how}", *headers, version="1.0" if end == "1.0" else "1.1"))
        connection.expect_end()
        assert lives(children[0])


@pytest.mark.parametrize("end", ["close", "idle"])
def test_a_clients_connection_ends_although_something_else_holds_its_socket(server: Server, end: str) -> None:
    with server.connect() as connection:
        fork_by(connection, "/hold", *(["Connection: close"] if end == "close" else []))
        connection.expect_end()


@pytest.mark.parametrize("holder", ["hold", "fork"])
def test_a_response_that_is_cut_off_ends_in_a_reset_although_a_child_holds_the_socket(
    server: Server, children: list[int], holder: str
) -> None:
    with server.connect() as connection:
        # For an HTTP/1.0 client, a regular end of the stream would complete the body (RFC 9112 6.3).
        connection.send(request("GET", f"/{holder}/cut", version="1.0"))
        # The reader of the tests treats a reset as an end, so the test reads the socket itself.
        with pytest.raises(ConnectionResetError):
            while connection.socket.recv(65536):
                pass
    children += [child for child in children_of(server.pid) if lives(child)]
    assert len(children) == (holder == "fork")


def test_a_child_can_neither_answer_nor_disturb_its_parents_client(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(2):
            connection.send(request("POST", "/use", "Content-Length: 4"))
            assert connection.read_response().body == b"['BrokenPipeError', 'ConnectionResetError', True]"
            connection.send(b"body")


@pytest.mark.parametrize("kind", ["alone", "gunicorn"])
def test_the_port_is_free_when_the_server_has_ended_although_a_child_lives(
    tmp_path: Path, serve: Serve, children: list[int], kind: str
) -> None:
    server: Server | Gunicorn
    if kind == "alone":
        server = serve(APPLICATION)
    else:
        (tmp_path / "forking.py").write_text(APPLICATION)
        server = Gunicorn(tmp_path, (), "forking:app")
        server.await_socket()
    with server.connect() as connection:
        # Children of multiprocessing do not count here: their parent waits for them when it ends.
        children += [fork_by(connection, f"/{how}") for how in ("fork", "fork_in_c")]
    server.signal(signal.SIGTERM)
    assert server.popen.wait(15) == 0
    address = ("127.0.0.1", server.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(address)
        successor.listen()
    assert all(lives(child) for child in children)
