"""Request bodies: gathered before the application runs, refused when they come in chunks, and bounded."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from serving import Connection, Serve, Server, chunked, request, takes

APPLICATION = "bodies_app:app"
MEMORY_BYTES = 10_000
"""Longer bodies go to a file here."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory for the files of the server below."""
    return tmp_path_factory.mktemp("bodies")


@pytest.fixture(scope="module")
def server(serve_module: Serve, directory: Path) -> Server:
    """A server that gathers bodies."""
    path = str(directory)
    return serve_module(
        APPLICATION, request_buffering=True, client_body_buffer_size=MEMORY_BYTES, client_body_temp_path=path
    )


def report(connection: Connection, data: bytes) -> dict[str, Any]:
    response = connection.request(data, "POST")
    assert response.status == 200, response
    result: dict[str, Any] = json.loads(response.body)
    return result


def with_length(body: bytes, target: str = "/") -> bytes:
    return request("POST", target, f"Content-Length: {len(body)}") + body


def in_chunks(body: bytes, target: str = "/", size: int = 1000) -> bytes:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return request("POST", target, "Transfer-Encoding: chunked") + chunked(chunks)


@pytest.mark.parametrize("size", [1, MEMORY_BYTES - 1, MEMORY_BYTES, MEMORY_BYTES + 1, 3_000_000])
@pytest.mark.parametrize("encode", [with_length, in_chunks])
def test_a_body_is_gathered_in_memory_or_in_a_file(server: Server, directory: Path, size: int, encode: Any) -> None:
    body = random.Random(size).randbytes(size)
    with server.connect() as connection:
        for _ in range(2):  # and the connection goes on
            seen = report(connection, encode(body))
            assert (seen["bytes"], seen["sha256"]) == (size, hashlib.sha256(body).hexdigest())
            assert (seen["length"], seen["coding"]) == (str(size), None)
            assert (seen["type"] == "BytesIO") is (size <= MEMORY_BYTES)
            # The files have no name, so none is ever left behind.
            assert list(directory.iterdir()) == []


def test_a_gathered_body_can_be_read_again(server: Server) -> None:
    with server.connect() as connection:
        for size in (10, MEMORY_BYTES * 2):
            assert report(connection, with_length(b"x" * size, "/seek"))["same"] is True


def test_a_gathered_body_ends_with_its_request(server: Server) -> None:
    with server.connect() as connection:
        for size in (10, MEMORY_BYTES * 2):
            report(connection, with_length(b"x" * size, "/kept"))
            assert "closed file" in report(connection, with_length(b"x", "/after"))["error"]


def test_a_gathered_body_that_is_not_read_leaves_the_connection_in_order(server: Server) -> None:
    with server.connect() as connection:
        for size in (10, 400_000):
            report(connection, with_length(b"x" * size, "/unread"))


def test_a_request_without_a_body_has_an_empty_file_too(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/") + request("GET", "/seek"))
        seen = json.loads(connection.read_response().body)
        assert (seen["bytes"], seen["length"], seen["type"]) == (0, None, "BytesIO")
        assert json.loads(connection.read_response().body)["same"] is True


def test_the_application_is_not_called_before_the_body_is_there(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(with_length(b"x" * 100, "/late")[:-1])
        assert not connection.has_input(0.2)
        assert "served /late" not in server.log()[start:]
        assert report(connection, b"x")["bytes"] == 100


def test_a_client_that_waits_for_100_gets_it(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("POST", "/", "Content-Length: 3", "Expect: 100-continue"))
        assert connection.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        assert report(connection, b"abc")["bytes"] == 3


def test_pipelined_bodies_are_gathered_one_by_one(server: Server) -> None:
    with server.connect() as connection:
        connection.send(in_chunks(b"a" * 20_000) + with_length(b"b" * 5) + in_chunks(b"c"))
        sizes = [json.loads(connection.read_response("POST").body)["bytes"] for _ in range(3)]
    assert sizes == [20_000, 5, 1]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("POST", "/never", "Transfer-Encoding: chunked") + b"3\r\nabc\r\nx", 400),
        (request("POST", "/never", "Content-Length: 50001") + b"x", 413),
        (request("POST", "/never", "Transfer-Encoding: chunked") + chunked([b"x" * 50_001]), 413),
        (request("POST", "/never", "Content-Length: 10") + b"x", 408),
    ],
    ids=["not in its framing", "over the limit", "over the limit in chunks", "late"],
)
def test_a_bad_body_never_reaches_the_application(serve: Serve, data: bytes, status: int) -> None:
    server = serve(APPLICATION, request_buffering=True, client_body_timeout=1, limit_request_body=50_000)
    with server.connect() as connection:
        connection.send(data)
        assert connection.read_response("POST").status == status
        connection.expect_end()
    server.wait_for_log(rf"{status} from 127\.0\.0\.1: ")
    assert "served" not in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("abort", [True, False])
def test_a_client_that_goes_away_in_its_body_is_no_error(serve: Serve, abort: bool) -> None:
    server = serve(APPLICATION, request_buffering=True)
    with server.connect() as connection:
        connection.send(with_length(b"x" * 100_000)[:-1])
        if abort:
            connection.abort()
        else:
            connection.finish_sending()
            connection.read_to_end()
    assert server.get("/").status == 200
    server.wait_for_log("^served")
    assert "Traceback" not in server.log()
    assert server.log().count("served") == 1


def test_a_file_that_cannot_be_made_is_500_and_named_in_the_log(serve: Serve, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    server = serve(APPLICATION, request_buffering=True, client_body_buffer_size=0, client_body_temp_path=str(missing))
    with server.connect() as connection:
        assert connection.request(with_length(b"x"), "POST").status == 500
    server.wait_for_log(rf"No such file or directory: '{missing}")
    assert "served" not in server.log()


def test_gathered_bodies_take_no_memory_beyond_their_buffer(serve: Serve) -> None:
    server = serve(APPLICATION, request_buffering=True, client_body_buffer_size=100_000, limit_request_body=0)
    body = b"x" * 64_000_000
    with server.connect() as connection:
        report(connection, with_length(b"x" * 1_000_000, "/unread"))
        before = server.resident_kib()
        report(connection, with_length(body, "/unread"))
        assert server.resident_kib() - before < 8_000


def test_chunked_bodies_can_be_refused(serve: Serve) -> None:
    server = serve(APPLICATION, no_chunked_requests=True)
    with server.connect() as connection:
        connection.send(in_chunks(b"abc") + with_length(b"x", "/smuggled"))
        assert connection.read_response("POST").status == 411
        connection.expect_end()
    with server.connect() as connection:
        assert report(connection, with_length(b"abc"))["bytes"] == 3
    assert "served /smuggled" not in server.log()


@pytest.mark.parametrize(
    ("option", "value", "line", "trailers", "status"),
    [
        ("limit_request_chunk_line", 16, b"1;" + b"x" * 14, b"", 200),
        ("limit_request_chunk_line", 16, b"1;" + b"x" * 15, b"", 400),
        ("limit_request_trailer", 20, b"1", b"a: bcdefghijklmn\r\n", 200),
        ("limit_request_trailer", 20, b"1", b"a: bcdefghijklmno\r\n", 431),
        ("limit_request_trailer_fields", 2, b"1", b"a: b\r\nc: d\r\n", 200),
        ("limit_request_trailer_fields", 2, b"1", b"a: b\r\nc: d\r\ne: f\r\n", 431),
    ],
)
def test_what_chunks_may_cost_is_settable(
    serve: Serve, option: str, value: int, line: bytes, trailers: bytes, status: int
) -> None:
    server = serve(APPLICATION, **{option: value})
    with server.connect() as connection:
        connection.send(request("POST", "/", "Transfer-Encoding: chunked"))
        connection.send(line + b"\r\nx\r\n0\r\n" + trailers + b"\r\n")
        with takes(0, 5):
            assert connection.read_response("POST").status == status
