"""Long reads of wsgi.input, which receive a body of known length into the bytes object that they return."""

from __future__ import annotations

import ast
import contextlib
import io
import random
import sys
import urllib.parse
from collections.abc import Sequence
from typing import Any

import pytest

import wsgi_app
from certificates import make_certificate, open_tls
from serving import Connection, Serve, Server, parse_head, request

KIB = 1024
BODY = random.Random(1).randbytes(3_000_000)
NEXT = request("GET", "/hello")

SIZES: list[list[int | None]] = [
    [256 * KIB] * 13,
    [64 * KIB] * 47,
    [64 * KIB - 1] * 47,
    [64 * KIB + 1] * 47,
    [KIB * KIB] * 4,
    [KIB * KIB + 1] * 4,
    [10_000_000, 1],
    [None, 1],
    [-1, 1],
    [1, 900_000, 1, 900_000, 70_000, None, 5],
    [100_000, 0, 100_000, 3, 1_048_576, 65_536, 65_536, 10, 10_000_000],
]


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """One server for all tests that do not need options."""
    return serve_module("wsgi_app:app", limit_request_body=0)


def where(sizes: Sequence[int | None]) -> str:
    return "/input-digests?" + urllib.parse.urlencode({"sizes": repr(sizes)})


def pieces_of(body: bytes, sizes: Sequence[int | None]) -> list[Any]:
    """The answer for a body that arrives whole."""
    return wsgi_app.replay_digests(io.BytesIO(body), sizes)


def in_chunks(sizes: Sequence[int | None]) -> bytes:
    return request("POST", where(sizes), chunks=[BODY[at : at + 50_000] for at in range(0, len(BODY), 50_000)])


def digests(connection: Connection) -> list[Any]:
    response = connection.read_response("POST")
    assert response.status == 200, response
    result: list[Any] = ast.literal_eval(response.body.decode())
    return result


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_byte_of_a_large_body_arrives_once(server: Server, sizes: list[int | None], framing: str) -> None:
    data = request("POST", where(sizes), body=BODY) if framing == "sized" else in_chunks(sizes)
    with server.connect() as connection:
        for _ in range(2):
            connection.send(data)
            assert digests(connection) == pieces_of(BODY, sizes)


@pytest.mark.parametrize("length", [64 * KIB, 64 * KIB + 1, 300_000, KIB * KIB, KIB * KIB + 1])
def test_a_read_longer_than_the_body_returns_the_body(server: Server, length: int) -> None:
    for size in (length, length + 1, 10_000_000, None):
        with server.connect() as connection:
            connection.send(request("POST", where([size, 1]), body=BODY[:length]))
            assert digests(connection) == pieces_of(BODY[:length], [size, 1])


@pytest.mark.parametrize("step", [10_000, 99_999])
def test_a_large_body_that_arrives_in_pieces_is_whole(server: Server, step: int) -> None:
    sizes = [256 * KIB, None]
    head, _, body = request("POST", where(sizes), body=BODY[:500_000]).partition(b"\r\n\r\n")
    with server.connect() as connection:
        connection.send(head + b"\r\n\r\n")
        connection.send_slowly(body, step=step, pause=0.001)
        assert digests(connection) == pieces_of(BODY[:500_000], sizes)


@pytest.mark.parametrize("length", [100_000, 300_000, 1_500_000])
def test_the_next_request_behind_a_large_body_is_answered(server: Server, length: int) -> None:
    sizes = [10 * KIB, 10_000_000 if length > KIB * KIB else KIB * KIB, 1]
    with server.connect() as connection:
        connection.send((request("POST", where(sizes), body=BODY[:length]) + NEXT) * 2)
        for _ in range(2):
            assert digests(connection) == pieces_of(BODY[:length], sizes)
            assert connection.read_response().body == b"hello"


def test_what_arrived_before_the_client_went_away_can_be_read(server: Server) -> None:
    start = len(server.log())
    sizes = [256 * KIB, 256 * KIB, 100_000, 256 * KIB, 40_000, 256 * KIB]
    head = request("POST", where(sizes), "Content-Length: 900000", "Expect: 100-continue")
    with server.connect() as connection:
        connection.send(head)
        assert connection.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.send(BODY[: 256 * KIB + 140_000])
        connection.finish_sending()
        connection.read_to_end()
    found = ast.literal_eval(server.wait_for_log(r"digests: (\[.*\])$", start=start)[1])
    arrived = io.BytesIO(BODY[: 256 * KIB + 140_000])
    (first,) = wsgi_app.replay_digests(arrived, [256 * KIB])
    second, third = wsgi_app.replay_digests(arrived, [100_000, 40_000])
    gone = "ConnectionResetError"
    assert found == [first, gone, second, gone, third, gone]


def test_a_client_that_sends_no_more_is_late_and_what_arrived_can_be_read(serve: Serve) -> None:
    server = serve("wsgi_app:app", client_body_timeout=1)
    sizes = [256 * KIB, 100_000, 1]
    with server.connect() as connection:
        connection.send(request("POST", where(sizes), "Content-Length: 900000") + BODY[:100_000])
        found = ast.literal_eval(server.wait_for_log(r"digests: (\[.*\])$")[1])
    assert found == ["TimeoutError", *pieces_of(BODY[:100_000], [100_000]), "ConnectionResetError"]


@pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="a debug build of Python writes to all new memory")
def test_an_announced_body_takes_no_memory_until_it_arrives(server: Server) -> None:
    announced = request("POST", where([KIB * KIB]), f"Content-Length: {KIB * KIB}", "Expect: 100-continue")
    with contextlib.ExitStack() as stack:

        def wait_for_a_body() -> None:
            connection = stack.enter_context(server.connect())
            connection.send(announced)
            # The read has begun.
            assert connection.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")

        for _ in range(10):
            wait_for_a_body()
        before = server.resident_kib()
        for _ in range(40):
            wait_for_a_body()
        assert server.resident_kib() - before < 10 * KIB


def test_every_byte_of_a_large_body_arrives_once_over_tls(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    certificate = make_certificate(tmp_path_factory.mktemp("certificate"))
    server = serve("wsgi_app:app", certfile=str(certificate.certificate), keyfile=str(certificate.key))
    for sizes in SIZES:
        with open_tls(server.port, certificate) as connection:
            connection.sendall(request("POST", where(sizes), "Connection: close", body=BODY))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, found = answer.partition(b"\r\n\r\n")
        assert parse_head(head)[1] == 200
        assert ast.literal_eval(found.decode()) == pieces_of(BODY, sizes)
