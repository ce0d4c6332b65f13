"""HTTP/1.0 and HTTP/1.1 on the wire: persistence, framing, limits, timeouts, bad input and faults of the client."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from serving import (
    TIMEOUT,
    ConnectionEnded,
    Option,
    ProtocolViolation,
    Response,
    Serve,
    Server,
    chunked,
    request,
    takes,
)

APPLICATION = "http_app:app"
NEXT = request("GET", "/next")
"""A request that must not be served when the one before it was malformed."""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """One server with default settings for all tests that do not need others."""
    return serve_module(APPLICATION)


@pytest.fixture(scope="module")
def hasty_server(serve_module: Serve) -> Server:
    """A server whose timeouts are all one second."""
    return serve_module(APPLICATION, keep_alive=1, client_header_timeout=1, client_body_timeout=1)


def environ(response: Response) -> dict[str, Any]:
    """The environ that /environ has answered with."""
    assert response.status == 200
    result: dict[str, Any] = json.loads(response.body)
    return result


# --- persistence -----------------------------------------------------------------------------------------------------


MARKS = itertools.count()


def log_start(server: Server) -> int:
    """The length of the log, once it has the lines of all earlier tests. The server writes them in order."""
    mark = f"/mark-{next(MARKS)}"
    assert server.get(mark).status == 200
    server.wait_for_log(rf"served GET {mark}\b")
    return len(server.log())


def test_connections_of_http_1_1_are_kept_alive(server: Server) -> None:
    with server.connect() as connection:
        for number in range(3):
            response = connection.request(request("GET", f"/{number}"))
            assert response.body == b"hello from /%d" % number
            assert not response.ends_connection
        connection.finish_sending()
        connection.expect_end()


def test_http_1_0_closes_by_default(server: Server) -> None:
    with server.connect() as connection:
        response = connection.request(b"GET /a HTTP/1.0\r\n\r\n")
        assert (response.status, response.body) == (200, b"hello from /a")
        assert response.ends_connection
        connection.expect_end()


def test_http_1_0_without_a_length_is_delimited_by_the_end(server: Server) -> None:
    with server.connect() as connection:
        response = connection.request(b"GET /generator HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert response.framing == "close"
        assert response.body == b"firstsecondthird"


@pytest.mark.parametrize("option", ["keep-alive", "Keep-Alive", "foo, KEEP-ALIVE"])
def test_http_1_0_keeps_the_connection_on_request(server: Server, option: str) -> None:
    data = f"GET /a HTTP/1.0\r\nConnection: {option}\r\n\r\n".encode()
    with server.connect() as connection:
        for _ in range(2):
            response = connection.request(data)
            assert response.body == b"hello from /a"
            assert "keep-alive" in (response.header("Connection") or "").lower()


@pytest.mark.parametrize("option", ["close", "Close", "foo, close", "close,foo"])
def test_the_client_can_ask_to_close(server: Server, option: str) -> None:
    with server.connect() as connection:
        response = connection.request(request("GET", "/a", f"Connection: {option}"))
        assert response.body == b"hello from /a"
        assert response.ends_connection
        connection.expect_end()


def test_nothing_is_served_after_a_request_with_connection_close(server: Server) -> None:
    responses = server.exchange(request("GET", "/a", "Connection: close") + NEXT)
    assert [response.body for response in responses] == [b"hello from /a"]


def test_the_application_can_ask_to_close(server: Server) -> None:
    with server.connect() as connection:
        response = connection.request(request("GET", "/close"))
        assert response.body == b"closing"
        assert response.ends_connection
        connection.expect_end()


def test_keep_alive_of_zero_closes_after_each_response(serve: Serve) -> None:
    server = serve(APPLICATION, keep_alive=0)
    with server.connect() as connection:
        response = connection.request(request("GET", "/a"))
        assert response.ends_connection
        connection.expect_end()


def test_an_idle_connection_is_closed_without_a_word(hasty_server: Server) -> None:
    with hasty_server.connect() as connection:
        connection.request(request("GET", "/a"))
        with takes(0.5, 6):
            connection.expect_end()


def test_a_connection_that_never_speaks_is_closed_without_a_word(hasty_server: Server) -> None:
    with hasty_server.connect() as connection, takes(0.5, 6):
        connection.expect_end()


def test_the_idle_timeout_starts_again_with_each_request(hasty_server: Server) -> None:
    with hasty_server.connect() as connection:
        for _ in range(4):
            connection.request(request("GET", "/a"))
            time.sleep(0.5)  # together twice the timeout
        assert connection.request(request("GET", "/b")).body == b"hello from /b"


# --- pipelining ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exchange:
    """A request, and the answer that must come back."""

    data: bytes
    body: bytes
    method: str = "GET"
    status: int = 200


MIXED = [
    Exchange(request("GET", "/a"), b"hello from /a"),
    Exchange(request("POST", "/echo", body=b"sized and read"), b"sized and read", "POST"),
    Exchange(request("POST", "/echo", chunks=[b"chunked ", b"and read"]), b"chunked and read", "POST"),
    Exchange(request("POST", "/ignored", body=b"sized and not read"), b"hello from /ignored", "POST"),
    Exchange(request("POST", "/ignored", chunks=[b"chunked", b"and not read"]), b"hello from /ignored", "POST"),
    Exchange(request("HEAD", "/b"), b"", "HEAD"),
    Exchange(request("GET", "/generator"), b"firstsecondthird"),
    Exchange(request("POST", "/partial", body=b"sized and partly read"), b"siz", "POST"),
    Exchange(request("POST", "/partial", chunks=[b"chu", b"nked and partly read"]), b"chu", "POST"),
    Exchange(request("GET", "/status/204"), b"", "GET", 204),
    Exchange(request("PUT", "/echo", body=b""), b"", "PUT"),
    Exchange(request("GET", "/status/304"), b"", "GET", 304),
    Exchange(request("HEAD", "/generator"), b"", "HEAD"),
]


@pytest.mark.parametrize("step", [None, 7, 1000], ids=["at once", "by 7 bytes", "by 1000 bytes"])
def test_fifty_pipelined_requests_are_answered_in_order(server: Server, step: int | None) -> None:
    exchanges = [MIXED[number % len(MIXED)] for number in range(50)]
    data = b"".join(exchange.data for exchange in exchanges)
    responses = server.exchange(data, [exchange.method for exchange in exchanges], step)
    assert [(response.status, response.body) for response in responses] == [
        (exchange.status, exchange.body) for exchange in exchanges
    ]


def test_a_failing_application_does_not_disturb_the_pipeline(server: Server) -> None:
    data = request("POST", "/fail", body=b"unread") + request("POST", "/echo", body=b"read")
    with server.connect() as connection:
        first = connection.request(data, "POST")
        assert first.status == 500
        assert b"on purpose" not in first.body
        if not first.ends_connection:
            assert connection.read_response("POST").body == b"read"


# --- request bodies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 65537, 1_000_000])
def test_sized_bodies_of_any_size_are_read(server: Server, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    (response,) = server.exchange(request("POST", "/echo", body=body), ["POST"])
    assert response.body == body


@pytest.mark.parametrize("chunk_size", [1, 5, 1000, 65536, 300_000])
def test_chunked_bodies_of_any_chunk_size_are_read(server: Server, chunk_size: int) -> None:
    body = bytes(number % 251 for number in range(min(chunk_size * 400, 300_000)))
    chunks = [body[start : start + chunk_size] for start in range(0, len(body), chunk_size)]
    (response,) = server.exchange(request("POST", "/echo", chunks=chunks), ["POST"])
    assert response.body == body


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("path", ["/echo", "/partial", "/ignored"])
def test_a_request_sent_byte_by_byte_is_served(server: Server, framing: str, path: str) -> None:
    body = b"the quick brown fox"
    if framing == "sized":
        data = request("POST", path, body=body)
    else:
        data = request("POST", path, chunks=[body[:3], body[3:4], body[4:]])
    expected = {"/echo": body, "/partial": body[:3], "/ignored": b"hello from /ignored"}[path]
    with server.connect() as connection:
        for _ in range(2):
            connection.send_slowly(data)
            response = connection.read_response("POST")
            assert (response.status, response.body) == (200, expected)


def test_a_head_split_anywhere_is_served(server: Server) -> None:
    data = request("GET", "/environ?x=1", "X-First: one", "Cookie: a=b")
    with server.connect() as connection:
        for cut in range(1, len(data)):
            connection.send(data[:cut])
            time.sleep(0.002)  # so that most cuts reach the server as two reads
            environment = environ(connection.request(data[cut:]))
            assert environment["QUERY_STRING"] == "x=1"
            assert environment["HTTP_X_FIRST"] == "one"
            assert environment["HTTP_COOKIE"] == "a=b"


@pytest.mark.parametrize(
    "coding_line", ["Transfer-Encoding: chunked", "transfer-encoding: Chunked", "TRANSFER-ENCODING:\tCHUNKED "]
)
def test_the_chunked_coding_is_recognised_in_any_letter_case(server: Server, coding_line: str) -> None:
    data = request("POST", "/echo", coding_line) + chunked([b"abc"])
    (first, second) = server.exchange(data + NEXT, ["POST", "GET"])
    assert (first.body, second.body) == (b"abc", b"hello from /next")


@pytest.mark.parametrize(
    "encoded",
    [
        b"3\r\nabc\r\n0\r\n\r\n",
        b"0003\r\nabc\r\n000\r\n\r\n",
        b"3;name=value\r\nabc\r\n0;last\r\n\r\n",
        b'3;name="quoted value"\r\nabc\r\n0\r\n\r\n',
        b"3\r\nabc\r\n0\r\nX-Trailer: value\r\nX-Other: value\r\n\r\n",
    ],
    ids=["plain", "leading zeros", "extensions", "quoted extension", "trailers"],
)
def test_chunk_extensions_and_trailers_are_read_and_dropped(server: Server, encoded: bytes) -> None:
    data = request("POST", "/echo", "Transfer-Encoding: chunked") + encoded
    (first, second) = server.exchange(data + NEXT, ["POST", "GET"])
    assert (first.body, second.body) == (b"abc", b"hello from /next")


def test_the_size_of_a_chunk_is_read_in_either_letter_case(server: Server) -> None:
    body = bytes(range(0xAB))
    for size in (b"AB", b"ab", b"aB"):
        data = request("POST", "/echo", "Transfer-Encoding: chunked") + size + b"\r\n" + body + b"\r\n0\r\n\r\n"
        (response,) = server.exchange(data, ["POST"])
        assert response.body == body


def test_a_chunked_body_is_announced_with_no_length(server: Server) -> None:
    (response,) = server.exchange(request("POST", "/environ", chunks=[b"abc"]), ["POST"])
    environment = environ(response)
    if "HTTP_TRANSFER_ENCODING" in environment:
        assert "CONTENT_LENGTH" not in environment


def test_a_small_unread_body_is_drained(server: Server) -> None:
    for data in (request("POST", "/ignored", body=b"x" * 1000), request("POST", "/ignored", chunks=[b"x" * 1000])):
        (first, second) = server.exchange(data + NEXT, ["POST", "GET"])
        assert (first.body, second.body) == (b"hello from /ignored", b"hello from /next")


def test_the_rest_of_an_unread_body_is_never_taken_for_a_request(server: Server) -> None:
    start = log_start(server)
    size = 12_000_000
    with server.connect() as connection:
        connection.send(request("POST", "/ignored", f"Content-Length: {size}"))
        response = connection.read_response("POST")
        assert response.body == b"hello from /ignored"
        try:
            for _ in range(size // 100_000):
                connection.send(request("GET", "/smuggled").ljust(100_000, b"x"))
            connection.send(NEXT)
        except OSError:
            return  # closed instead of drained, which is as good
        if response.ends_connection:
            connection.expect_end()
        else:
            assert connection.read_response().body == b"hello from /next"
    assert "served GET /smuggled" not in server.log()[start:]


# --- Expect: 100-continue --------------------------------------------------------------------------------------------


def test_continue_is_sent_when_the_application_reads(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("POST", "/echo", "Expect: 100-continue", "Content-Length: 4"))
        interim = connection.read_response("POST")
        assert (interim.status, interim.body) == (100, b"")
        response = connection.request(b"body", "POST")
        assert (response.status, response.body) == (200, b"body")
        assert connection.request(NEXT).body == b"hello from /next"


def test_the_next_request_may_come_with_a_body_that_the_application_waits_for(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("POST", "/echo", "Expect: 100-continue", "Content-Length: 4"))
        assert connection.read_response("POST").status == 100
        assert connection.request(b"body" + NEXT, "POST").body == b"body"
        assert connection.read_response("GET").body == b"hello from /next"


def test_continue_is_sent_for_chunked_bodies_and_in_any_letter_case(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("POST", "/echo", "expect: 100-Continue", "Transfer-Encoding: chunked"))
        assert connection.read_response("POST").status == 100
        assert connection.request(chunked([b"body"]), "POST").body == b"body"


def test_continue_is_not_sent_when_the_application_does_not_read(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("POST", "/ignored", "Expect: 100-continue", "Content-Length: 4"))
        response = connection.read_response("POST")
        assert (response.status, response.body) == (200, b"hello from /ignored")
        # The server cannot know whether the body follows, so the connection ends (RFC 9110 10.1.1).
        assert response.ends_connection
        connection.expect_end()


@pytest.mark.parametrize("query", ["sized", ""])
def test_continue_is_not_sent_within_the_response(server: Server, query: str) -> None:
    with server.connect() as connection:
        connection.send(request("POST", f"/echo-late?{query}", "Expect: 100-continue", "Content-Length: 4"))
        head = connection.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"Connection: close" in head
        # A client may send its body nevertheless (RFC 9110 10.1.1).
        connection.send(b"body")
        assert connection.read_to_end() == (b"first body" if query else b"6\r\nfirst \r\n4\r\nbody\r\n0\r\n\r\n")


def test_a_body_that_could_not_be_read_ends_the_connection_and_the_response_says_so(server: Server) -> None:
    data = request("POST", "/swallow", "Transfer-Encoding: chunked") + b"no size\r\n"
    (response,) = server.exchange(data, ["POST"])
    assert (response.status, response.body, response.ends_connection) == (200, b"swallowed", True)


def test_continue_is_not_sent_to_http_1_0(server: Server) -> None:
    with server.connect() as connection:
        connection.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert not connection.has_input(0.3)
        response = connection.request(b"body", "POST")
        assert (response.status, response.body) == (200, b"body")


def test_other_expectations_fail(server: Server) -> None:
    (response,) = server.exchange(request("POST", "/echo", "Expect: a miracle", body=b"body") + NEXT, ["POST"])
    assert response.status == 417


# --- responses -------------------------------------------------------------------------------------------------------


def test_a_response_with_a_length_is_sent_as_it_is(server: Server) -> None:
    (response,) = server.exchange(request("GET", "/sized-generator"))
    assert (response.framing, response.body) == ("sized", b"0123456789")


def test_a_generator_without_a_length_is_sent_chunked(server: Server) -> None:
    (response,) = server.exchange(request("GET", "/generator"))
    assert response.framing == "chunked"
    assert response.body == b"firstsecondthird"


@pytest.mark.parametrize(("path", "body"), [("/single", b"alone"), ("/list", b"onetwo"), ("/empty", b"")])
def test_a_list_without_a_length_is_given_one(server: Server, path: str, body: bytes) -> None:
    (response,) = server.exchange(request("GET", path))
    assert (response.framing, response.body) == ("sized", body)


@pytest.mark.parametrize("path", ["/a", "/generator", "/single", "/list", "/sized-generator", "/flood", "/fail"])
def test_a_response_to_head_has_no_body(server: Server, path: str) -> None:
    (first, second) = server.exchange(request("HEAD", path) + NEXT, ["HEAD", "GET"])
    assert first.status == (500 if path == "/fail" else 200)
    assert second.body == b"hello from /next"


def test_a_response_to_head_keeps_the_length_of_the_application(server: Server) -> None:
    (response,) = server.exchange(request("HEAD", "/sized-generator"), ["HEAD"])
    assert response.header("Content-Length") == "10"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("query", ["", "?empty"])
def test_statuses_without_a_body_send_none(server: Server, status: int, query: str) -> None:
    (first, second) = server.exchange(request("GET", f"/status/{status}{query}") + NEXT, ["GET", "GET"])
    assert (first.status, first.framing) == (status, "none")
    assert first.header("Transfer-Encoding") is None
    assert second.body == b"hello from /next"


def test_date_and_server_are_present(server: Server) -> None:
    (response,) = server.exchange(request("GET", "/a"))
    expression = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} "
    date = response.header("Date") or ""
    assert re.fullmatch(expression + r"\d\d:\d\d:\d\d GMT", date), date
    sent = time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    assert abs(time.time() - sent) < 10
    assert (response.header("Server") or "").startswith("rmeinheld")


def test_the_date_moves_on(server: Server) -> None:
    with server.connect() as connection:
        first = connection.request(request("GET", "/a")).header("Date")
        time.sleep(1.2)
        assert connection.request(request("GET", "/a")).header("Date") != first


def test_date_and_server_of_the_application_win(server: Server) -> None:
    (response,) = server.exchange(request("GET", "/own-date-and-server"))
    assert response.all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert response.all("Server") == ["mine/1.0"]


# --- the head of a request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/environ/%61%2Fb", None, ""),
        ("/environ", "/environ", ""),
        ("/environ?", "/environ", ""),
        ("/environ?a=%41&b=c+d?e", "/environ", "a=%41&b=c+d?e"),
        ("/%65nviron", "/environ", ""),
        ("//environ", "//environ", ""),
        ("http://other.example/environ?q", "/environ", "q"),
    ],
)
def test_targets_are_split_and_decoded(server: Server, target: str, path: str | None, query: str) -> None:
    (response,) = server.exchange(request("GET", target))
    if path is None or path != "/environ":
        assert response.status == 200
    else:
        environment = environ(response)
        assert environment["PATH_INFO"] == path
        assert environment["QUERY_STRING"] == query


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/%2541", b"/%41"),
        ("/%zz%4", b"/%zz%4"),
        ("/%e2%82%ac", b"/\xe2\x82\xac"),
        ("/a%2Fb%00c", None),
        ("/a%2fb", b"/a/b"),
        ("/%25", b"/%"),
        ("/a+b", b"/a+b"),
        ("/%E9", b"/\xe9"),
    ],
)
def test_paths_are_decoded_exactly_once(server: Server, target: str, path: bytes | None) -> None:
    (response,) = server.exchange(request("GET", target))
    if path is None:
        assert response.status in (200, 400)  # NUL: decoded or refused, but never cut off
        assert response.status == 400 or response.body == b"hello from /a/b\x00c"
    else:
        assert (response.status, response.body) == (200, b"hello from " + path)


def test_an_absolute_target_names_the_host(server: Server) -> None:
    (response,) = server.exchange(request("GET", "http://other.example:81/environ"))
    assert environ(response)["HTTP_HOST"] == "other.example:81"


def test_options_may_ask_about_the_server_as_a_whole(server: Server) -> None:
    (response,) = server.exchange(request("OPTIONS", "*"), ["OPTIONS"])
    assert response.status == 200


@pytest.mark.parametrize("method", ["PURGE", "M-SEARCH", "PROPFIND", "get", "X!#$%&'*+-.^_`|~9"])
def test_any_token_is_a_method_and_arrives_unchanged(server: Server, method: str) -> None:
    (response,) = server.exchange(request(method, "/environ"), [method])
    assert environ(response)["REQUEST_METHOD"] == method


def test_one_empty_line_before_a_request_is_ignored(server: Server) -> None:
    (first, second) = server.exchange(b"\r\n" + request("GET", "/a") + b"\r\n" + NEXT, ["GET", "GET"])
    assert (first.body, second.body) == (b"hello from /a", b"hello from /next")


def test_field_values_are_latin_1_and_trimmed(server: Server) -> None:
    data = request("GET", "/environ", "X-Latin:\t caf\xe9  au lait \t", "X-Empty:", "X-Blank:   ")
    environment = environ(server.exchange(data)[0])
    assert environment["HTTP_X_LATIN"] == "caf\xe9  au lait"
    assert environment["HTTP_X_EMPTY"] == ""
    assert environment["HTTP_X_BLANK"] == ""


def test_repeated_fields_are_joined(server: Server) -> None:
    data = request("GET", "/environ", "X-List: a", "Cookie: a=1", "x-list: b", "Accept: c", "cookie: b=2", "X-LIST: c")
    environment = environ(server.exchange(data)[0])
    assert environment["HTTP_X_LIST"] == "a,b,c"
    assert environment["HTTP_COOKIE"] == "a=1; b=2"
    assert environment["HTTP_ACCEPT"] == "c"


@pytest.mark.parametrize("name", ["X_Forwarded_For", "Content_Length", "X-Real_IP"])
def test_field_names_with_underscores_are_dropped(server: Server, name: str) -> None:
    key = name.upper().replace("-", "_")
    environment = environ(server.exchange(request("GET", "/environ", f"{name}: 5"))[0])
    assert f"HTTP_{key}" not in environment
    assert environment.get(key, "") in ("", "0")


def test_an_underscored_name_does_not_join_its_dashed_twin(server: Server) -> None:
    data = request("GET", "/environ", "X-Forwarded-For: 10.0.0.1", "X_Forwarded_For: 6.6.6.6")
    assert environ(server.exchange(data)[0])["HTTP_X_FORWARDED_FOR"] == "10.0.0.1"


def test_a_proxy_field_does_not_become_http_proxy(server: Server) -> None:
    # httpoxy, CVE-2016-5387 and CVE-2016-1000110: programs take HTTP_PROXY for the environment variable.
    assert "HTTP_PROXY" not in environ(server.exchange(request("GET", "/environ", "Proxy: evil:80"))[0])


# --- malformed requests ----------------------------------------------------------------------------------------------

CHUNKED_POST = b"POST /count HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


def get_with(line: bytes) -> bytes:
    """A GET request with one more field line."""
    return b"GET /a HTTP/1.1\r\nHost: test\r\n" + line + b"\r\n\r\n"


def post_with(*lines: bytes, body: bytes = b"hello") -> bytes:
    """A POST request with more field lines and a body."""
    return b"\r\n".join([b"POST /count HTTP/1.1", b"Host: test", *lines, b"", b""]) + body


BAD_HEADS: dict[str, tuple[bytes, set[int]]] = {
    "empty method": (b" /a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "method with a colon": (b"GET: /a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "method with NUL": (b"GET\0PROXY /a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "method beyond ASCII": (b"GET\xdf /a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "no target": (b"GET HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "two spaces": (b"GET  /a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "tab for a space": (b"GET\t/a\tHTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "relative target": (b"GET a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "dots for a target": (b"GET .. HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "asterisk without OPTIONS": (b"GET * HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "authority without CONNECT": (b"GET test:80 HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "raw UTF-8 in the target": (b"GET /\xe2\x82\xac HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "NUL in the target": (b"GET /a\0b HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "DEL in the target": (b"GET /a\x7fb HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "no version": (b"GET /a\r\nHost: test\r\n\r\n", {400}),
    "version in lower case": (b"GET /a http/1.1\r\nHost: test\r\n\r\n", {400}),
    "version with more digits": (b"GET /a HTTP/1.10\r\nHost: test\r\n\r\n", {400, 505}),
    "version HTTP/1111": (b"GET /a HTTP/1111111111111\r\nHost: test\r\n\r\n", {400, 505}),
    "version 0.9": (b"GET /a HTTP/0.9\r\nHost: test\r\n\r\n", {400, 505}),
    "version 1.2 with junk": (b"GET /a HTTP/1.1 x\r\nHost: test\r\n\r\n", {400}),
    "version 2.0": (b"GET /a HTTP/2.0\r\nHost: test\r\n\r\n", {400, 505}),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "bytes of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x81" * 40 + b"\r\n\r\n", {400}),
    "two empty lines first": (b"\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "bare LF after the request line": (b"GET /a HTTP/1.1\nHost: test\r\n\r\n", {400}),
    "bare LF after a field": (b"GET /a HTTP/1.1\r\nHost: test\nX-A: b\r\n\r\n", {400}),
    "bare LF at the end": (b"GET /a HTTP/1.1\r\nHost: test\r\n\n", {400}),
    "bare CR in the request line": (b"GET /a\rb HTTP/1.1\r\nHost: test\r\n\r\n", {400}),
    "bare CR in a value": (get_with(b"X-A: a\rb"), {400}),
    "no Host": (b"GET /a HTTP/1.1\r\n\r\n", {400}),
    "two Hosts": (get_with(b"Host: other"), {400}),
    "two equal Hosts": (get_with(b"Host: test"), {400}),
    "bad Host": (b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", {400}),
    "field without a colon": (get_with(b"X-A"), {400}),
    "field without a name": (get_with(b": value"), {400}),
    "space before the colon": (get_with(b"X-A : value"), {400}),
    "tab before the colon": (get_with(b"X-A\t: value"), {400}),
    "space before the first field": (b"GET /a HTTP/1.1\r\n Host: test\r\n\r\n", {400}),
    "space in a name": (get_with(b"X A: value"), {400}),
    "name beyond ASCII": (get_with(b"X-\xc3\xa9: value"), {400}),
    "NUL in a name": (get_with(b"X-\0: value"), {400}),
    "NUL in a value": (get_with(b"X-A: a\0b"), {400}),
    "control character in a value": (get_with(b"X-A: a\x01b"), {400}),
    "DEL in a value": (get_with(b"X-A: a\x7fb"), {400}),
    "folded line": (get_with(b"X-A: a\r\n b"), {400}),
    "folded line with a tab": (get_with(b"X-A: a\r\n\tb"), {400}),
    "folded Content-Length": (post_with(b"Content-Length:\r\n 5"), {400}),
    "vertical tab around a value": (post_with(b"Transfer-Encoding: \x0bchunked", body=chunked([b"a"])), {400, 501}),
    "NEL around a coding": (post_with(b"Transfer-Encoding: \x85chunked", body=chunked([b"a"])), {400, 501}),
    "two Content-Lengths": (post_with(b"Content-Length: 5", b"Content-Length: 6"), {400}),
    "two equal Content-Lengths": (post_with(b"Content-Length: 5", b"Content-Length: 5"), {400}),
    "list of Content-Lengths": (post_with(b"Content-Length: 5, 5"), {400}),
    "empty Content-Length": (post_with(b"Content-Length:"), {400}),
    "negative Content-Length": (post_with(b"Content-Length: -5"), {400}),
    "negative zero": (post_with(b"Content-Length: -0", body=b""), {400}),
    "signed Content-Length": (post_with(b"Content-Length: +5"), {400}),
    "Content-Length with an underscore": (post_with(b"Content-Length: 0_5"), {400}),
    "Content-Length in hexadecimal": (post_with(b"Content-Length: 0x5"), {400}),
    "Content-Length with a fraction": (post_with(b"Content-Length: 5.0"), {400}),
    "Content-Length of two words": (post_with(b"Content-Length: 3 1"), {400}),
    "Content-Length beyond 64 bits": (post_with(b"Content-Length: 18446744073709551621"), {400, 413}),
    "Content-Length beyond 128 bits": (post_with(b"Content-Length: " + b"9" * 60), {400, 413}),
    "Content-Length in other digits": (post_with(b"Content-Length: \xb2"), {400}),
    "length and chunked": (post_with(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), {400}),
    "chunked and length": (post_with(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), {400}),
    "chunked twice": (post_with(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), {400, 501}),
    "chunked on two lines": (
        post_with(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        {400, 501},
    ),
    "chunked not last": (post_with(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), {400, 501}),
    "chunked and identity": (
        post_with(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
        {400, 501},
    ),
    "identity": (post_with(b"Transfer-Encoding: identity"), {400, 501}),
    "gzip, chunked": (post_with(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), {400, 501}),
    "xchunked": (post_with(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), {400, 501}),
    "quoted chunked": (post_with(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), {400, 501}),
    "chunked with a parameter": (post_with(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), {400, 501}),
    "empty coding": (post_with(b"Transfer-Encoding:", body=b"0\r\n\r\n"), {400, 501}),
    "space before the colon of a coding": (post_with(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), {400}),
    "chunked in HTTP/1.0": (
        b"POST /count HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400, 501},
    ),
}

BAD_CHUNKS: dict[str, bytes] = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "only an extension": b";x\r\nabc\r\n0\r\n\r\n",
    "not hexadecimal": b"g\r\nabc\r\n0\r\n\r\n",
    "prefix 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "plus sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "minus sign": b"-3\r\nabc\r\n0\r\n\r\n",
    "underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "space before": b" 3\r\nabc\r\n0\r\n\r\n",
    "space inside": b"3 3\r\nabc\r\n0\r\n\r\n",
    "beyond 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "data longer than the size": b"2\r\nabc\r\n0\r\n\r\n",
    "data shorter than the size": b"4\r\nabc\r\n0\r\n\r\n",
    "bare LF after the data": b"3\r\nabc\n0\r\n\r\n",
    "no CRLF after the data": b"3\r\nabc0\r\n\r\n",
    "bare LF in the trailers": b"3\r\nabc\r\n0\r\nX-A: b\n\r\n",
    "malformed trailer": b"3\r\nabc\r\n0\r\nnot a field\r\n\r\n",
    "space before a trailer": b"3\r\nabc\r\n0\r\n X-A: b\r\n\r\n",
}


def assert_refused(server: Server, data: bytes, statuses: set[int]) -> None:
    """The request is refused with one of `statuses`, the connection is closed, and what follows is not served."""
    start = log_start(server)
    with server.connect() as connection:
        connection.send(data + NEXT + NEXT)
        response = connection.read_response()
        assert response.status in statuses, f"{response.status} {response.reason}: {response.body!r}"
        assert response.ends_connection
        connection.expect_end()
    log = server.log()[start:]
    assert "served GET /next" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_malformed_head_is_refused_and_nothing_after_it_served(server: Server, name: str) -> None:
    data, statuses = BAD_HEADS[name]
    assert_refused(server, data, statuses)


@pytest.mark.parametrize("name", BAD_HEADS)
def test_the_application_never_sees_a_malformed_head(server: Server, name: str) -> None:
    start = log_start(server)
    with server.connect() as connection:
        connection.send_slowly(BAD_HEADS[name][0], step=11)
        assert connection.read_response().status in BAD_HEADS[name][1]
    assert "served" not in server.log()[start:]


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_malformed_chunk_ends_the_connection_and_nothing_after_it_is_served(server: Server, name: str) -> None:
    start = log_start(server)
    with server.connect() as connection:
        connection.send(CHUNKED_POST + BAD_CHUNKS[name] + NEXT)
        response = connection.read_response("POST")
        assert response.status == 400, f"{response.status}: {response.body!r}"
        assert response.ends_connection
        connection.expect_end()
    assert "served GET /next" not in server.log()[start:]


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_malformed_chunk_that_is_not_read_ends_the_connection(server: Server, name: str) -> None:
    start = log_start(server)
    with server.connect() as connection:
        connection.send(CHUNKED_POST.replace(b"/count", b"/ignored") + BAD_CHUNKS[name] + NEXT)
        assert connection.read_response("POST").status in (200, 400)
        connection.expect_end()
    assert "served GET /next" not in server.log()[start:]


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED_POST,
        CHUNKED_POST + b"5\r\nab",
        CHUNKED_POST + b"2\r\nab\r\n",
        CHUNKED_POST + b"2\r\nab\r\n0\r\n",
        post_with(b"Content-Length: 10", body=b"short"),
    ],
    ids=["no chunk", "within a chunk", "after a chunk", "before the last empty line", "within a sized body"],
)
def test_a_body_that_is_cut_off_is_not_taken_for_whole(server: Server, data: bytes) -> None:
    with server.connect() as connection:
        connection.send(data)
        connection.finish_sending()
        try:
            response = connection.read_response("POST")
        except ConnectionEnded:
            return
        assert response.status in (400, 408, 500)
        connection.expect_end()


@pytest.mark.parametrize("data", [b"GET /a HT", b"GET /a HTTP/1.1\r\nHost: test\r\n", b"\r"])
def test_a_head_that_is_cut_off_is_not_served(server: Server, data: bytes) -> None:
    start = log_start(server)
    with server.connect() as connection:
        connection.send(data)
        connection.finish_sending()
        with suppress(ConnectionEnded):
            assert connection.read_response().status == 400
        connection.expect_end()
    assert "served" not in server.log()[start:]


def connect_request(target: str = "test:443") -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


def test_connect_is_not_implemented_unless_it_is_permitted(server: Server) -> None:
    start = log_start(server)
    assert_refused(server, connect_request(), {501})
    assert_refused(server, connect_request("/a"), {400})
    assert_refused(server, connect_request("test"), {400})
    assert_refused(server, connect_request("test:"), {400})
    server.wait_for_log(r"501 from 127.0.0.1: CONNECT \(permit_connect is off; RFC 9110 9.3.6\)$")
    assert "served CONNECT" not in server.log()[start:]


TUNNELS = """
    import tempfile

    def generated():
        yield b"to the "
        yield b""
        yield b"other side"

    def app(environ, start_response):
        method, target = environ["REQUEST_METHOD"], environ["RAW_URI"]
        environ["wsgi.errors"].write(f"served {method} {target}\\n")
        body = b"to the other side"
        length = [("Content-Length", "17")]
        match target.partition(":")[0]:
            case "list":
                start_response("200 OK", length)
                return [body]
            case "write":
                start_response("200 OK", [("Transfer-Encoding", "chunked"), ("Connection", "keep-alive")])(body)
                return []
            case "generator":
                start_response("299 Fine", [])
                return generated()
            case "file":
                start_response("200 OK", length)
                file = tempfile.TemporaryFile()
                file.write(body)
                file.seek(0)
                return environ["wsgi.file_wrapper"](file)
            case "empty":
                start_response("205 Reset Content", [("Content-Length", "0")])
                return []
            case "refused":
                start_response("405 Method Not Allowed", length)
                return [body]
        start_response("200 OK", length)
        return [body]
"""


@pytest.fixture(scope="module")
def tunnels(serve_module: Serve) -> Server:
    """A server that passes CONNECT on."""
    return serve_module(TUNNELS, permit_connect=True)


@pytest.mark.parametrize("kind", ["list", "write", "generator", "file", "empty"])
def test_a_permitted_connect_is_answered_without_framing_and_ends_http(tunnels: Server, kind: str) -> None:
    with tunnels.connect() as connection:
        connection.send(connect_request(f"{kind}:1") + NEXT)
        response, _ = connection.read_head("CONNECT")
        assert response.status // 100 == 2
        for name in ("Content-Length", "Transfer-Encoding", "Connection"):
            assert response.header(name) is None, name
        assert connection.read_to_end() == (b"" if kind == "empty" else b"to the other side")
    assert tunnels.get("/mark").status == 200
    tunnels.wait_for_log(f"^served CONNECT {kind}:1$")
    assert "served GET /next" not in tunnels.log()


def test_a_connect_that_the_application_refuses_is_framed_and_ends_the_connection(tunnels: Server) -> None:
    with tunnels.connect() as connection:
        response = connection.request(connect_request("refused:1") + NEXT, "CONNECT")
        assert (response.status, response.framing, response.body) == (405, "sized", b"to the other side")
        assert response.ends_connection
        connection.expect_end()
    assert "served GET /next" not in tunnels.log()


def test_a_malformed_connect_is_a_400_where_it_is_permitted(tunnels: Server) -> None:
    for target in ("/a", "test", "test:", "http://test/"):
        assert_refused(tunnels, connect_request(target), {400})
    with tunnels.connect() as connection:
        assert connection.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").header("Content-Length") == "17"


def test_a_refusal_of_head_has_no_body(server: Server) -> None:
    for data, status in [
        (request("HEAD", "/a", "Expect: wonders"), 417),
        (request("HEAD", "/a", "Content-Length: x"), 400),
        (b"\r\n" + request("HEAD", "/a", "X Y: z"), 400),
    ]:
        with server.connect() as connection:
            response = connection.request(data, "HEAD")
            assert (response.status, response.ends_connection) == (status, True)
            connection.expect_end()


def test_an_empty_member_is_refused_in_transfer_encoding_alone(server: Server) -> None:
    start = log_start(server)
    body = b"3\r\nabc\r\n0\r\n\r\n"
    for value in (",chunked", "chunked,", " , chunked", "chunked, ,"):
        assert_refused(server, request("POST", "/echo", f"Transfer-Encoding: {value}") + body, {400})
    server.wait_for_log(r"400 from 127.0.0.1: an empty member in Transfer-Encoding", start=start)
    fields = ("Connection: ,, keep-alive ,", "Expect: , 100-continue,,", "Transfer-Encoding: chunked")
    with server.connect() as connection:
        connection.send(request("POST", "/echo", *fields))
        assert connection.read_response().status == 100
        response = connection.request(body)
        assert (response.body, response.ends_connection) == (b"abc", False)


def test_the_scheme_of_a_target_is_not_that_of_the_environ(server: Server) -> None:
    for scheme in ("http", "https", "HTTPS"):
        (response,) = server.exchange(f"GET {scheme}://other/environ HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        seen = environ(response)
        assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("http", "other")


def test_a_426_of_the_application_says_what_to_ask_for(server: Server) -> None:
    (response,) = server.exchange(request("GET", "/upgrade-required"))
    assert (response.status, response.header("Upgrade")) == (426, "TLS/1.0, HTTP/1.1")
    # RFC 9110 7.8: a sender of Upgrade also sends the connection option.
    assert response.header("Connection") == "upgrade"
    assert not response.ends_connection


def test_an_empty_host_is_refused_where_the_target_has_none(server: Server) -> None:
    start = log_start(server)
    assert_refused(server, b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", {400})
    server.wait_for_log(r"400 from 127.0.0.1: an empty Host \(RFC 9110 4.2.1\)$", start=start)
    for data, host in [
        (b"GET http://other:80/environ HTTP/1.1\r\nHost:\r\n\r\n", "other:80"),
        (b"GET http://other/environ HTTP/1.1\r\nHost: test\r\n\r\n", "other"),
        (b"GET /environ HTTP/1.0\r\nHost:\r\n\r\n", ""),
    ]:
        assert environ(server.exchange(data)[0])["HTTP_HOST"] == host
    assert server.exchange(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n")[0].status == 200


def test_an_error_response_is_a_small_page_that_says_what_is_wrong(server: Server) -> None:
    (response,) = server.exchange(b"GET /a HTTP/1.1\r\n\r\n")
    assert response.status == 400
    assert response.framing == "sized"
    assert b"400" in response.body
    assert response.header("Content-Type")


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "good", "bad", "status"),
    [
        ({}, request("GET", "/" + "a" * 8190), request("GET", "/" + "a" * 9000), 414),
        ({"limit_request_line": 100}, request("GET", "/" + "a" * 80), request("GET", "/" + "a" * 100), 414),
        (
            {},
            request("GET", "/", *[f"X-{number}: 1" for number in range(127)]),
            request("GET", "/", *[f"X-{number}: 1" for number in range(128)]),
            431,
        ),
        (
            {"limit_request_fields": 5},
            request("GET", "/", "A: 1", "B: 2", "C: 3", "D: 4"),
            request("GET", "/", "A: 1", "B: 2", "C: 3", "D: 4", "E: 5"),
            431,
        ),
        ({}, request("GET", "/", "X-A: " + "a" * 8180), request("GET", "/", "X-A: " + "a" * 8200), 431),
        (
            {"limit_request_field_size": 50},
            request("GET", "/", "X-A: " + "a" * 40),
            request("GET", "/", "X-A: " + "a" * 51),
            431,
        ),
        (
            {},
            request("GET", "/", *["X-A: " + "a" * 7900] * 10),
            request("GET", "/", *["X-A: " + "a" * 7900] * 11),
            431,
        ),
        (
            {"limit_request_head": 1024},
            request("GET", "/", *["X-A: " + "a" * 90] * 8),
            request("GET", "/", *["X-A: " + "a" * 90] * 12),
            431,
        ),
        (
            {"limit_request_body": 1000},
            request("POST", "/echo", body=b"x" * 1000),
            request("POST", "/echo", body=b"x" * 1001),
            413,
        ),
        (
            {"limit_request_body": 1000},
            request("POST", "/echo", chunks=[b"x" * 500] * 2),
            request("POST", "/echo", chunks=[b"x" * 500] * 3),
            413,
        ),
    ],
    ids=[
        "default line",
        "line",
        "default fields",
        "fields",
        "default field size",
        "field size",
        "default head",
        "head",
        "sized body",
        "chunked body",
    ],
)
def test_limits_let_pass_what_is_within_and_refuse_what_is_beyond(
    serve: Serve, options: dict[str, Option], good: bytes, bad: bytes, status: int
) -> None:
    server = serve(APPLICATION, **options)
    assert server.exchange(good)[0].status == 200
    assert_refused(server, bad, {status})
    with server.connect() as connection:  # the limit must not depend on the head arriving in one read
        connection.send_slowly(bad, step=997)
        assert connection.read_response().status == status


def test_the_default_limit_of_a_body_is_16_mib(server: Server) -> None:
    beyond = f"Content-Length: {16 * 1024 * 1024 + 1}"
    with server.connect() as connection:
        assert connection.request(request("POST", "/count", beyond), "POST").status == 413
        connection.expect_end()
    body = b"x" * (16 * 1024 * 1024)
    assert server.exchange(request("POST", "/count", body=body), ["POST"])[0].body == b"16777216"


# --- leniency --------------------------------------------------------------------------------------------------------


def test_folded_lines_are_joined_where_they_are_permitted(serve: Serve) -> None:
    lenient = serve(APPLICATION, permit_obsolete_folding=True)
    folded = request("GET", "/environ", "X-A: one\r\n\t two", "X-B: three")
    for step in (1, 7, len(folded)):
        with lenient.connect() as connection:
            connection.send_slowly(folded, step)
            seen = environ(connection.read_response())
            assert (seen["HTTP_X_A"], seen["HTTP_X_B"]) == ("one two", "three")
    assert_refused(lenient, request("POST", "/a", "Content-Length: 3\r\n 0") + b"abc", {400})
    assert_refused(lenient, request("POST", "/a", "Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n", {400})
    assert_refused(lenient, CHUNKED_POST + b"0\r\nX: y\r\n z\r\n\r\n", {400})


def test_pipelined_requests_are_repaired_one_by_one(serve: Serve) -> None:
    lenient = serve(APPLICATION, permit_obsolete_folding=True, strip_header_spaces=True)
    first = request("POST", "/echo", "X-A : b\r\n c", body=b"X : y\r\n z")
    responses = lenient.exchange(first + request("GET", "/environ", "X-A : b\r\n c"), ["POST", "GET"])
    # Bytes that are no head stay as they are.
    assert responses[0].body == b"X : y\r\n z"
    assert environ(responses[1])["HTTP_X_A"] == "b c"


def test_space_before_the_colon_is_stripped_where_that_is_asked_for(serve: Serve) -> None:
    lenient = serve(APPLICATION, strip_header_spaces=True)
    assert environ(lenient.exchange(request("GET", "/environ", "X-A \t: b"))[0])["HTTP_X_A"] == "b"
    assert_refused(lenient, request("POST", "/a", "Content-Length : 3") + b"abc", {400})
    assert_refused(lenient, request("POST", "/a", "Transfer-Encoding : chunked") + b"0\r\n\r\n", {400})


def test_methods_can_be_put_in_capitals_or_kept_to_convention(serve: Serve, server: Server) -> None:
    small = request("get", "/environ")
    assert environ(server.exchange(small)[0])["REQUEST_METHOD"] == "get"
    assert environ(serve(APPLICATION, casefold_http_method=True).exchange(small)[0])["REQUEST_METHOD"] == "GET"
    conventional = serve(APPLICATION, no_permit_unconventional_http_method=True)
    assert environ(conventional.exchange(request("PATCH", "/environ"))[0])["REQUEST_METHOD"] == "PATCH"
    for method in ("get", "GE", "A" * 21, "GET#"):
        assert_refused(conventional, request(method, "/a"), {400})


def test_other_versions_are_served_where_they_are_permitted(serve: Serve, server: Server) -> None:
    later = request("GET", "/environ").replace(b"HTTP/1.1", b"HTTP/2.0")
    assert_refused(server, later, {505})
    lenient = serve(APPLICATION, permit_unconventional_http_version=True)
    assert environ(lenient.exchange(later)[0])["SERVER_PROTOCOL"] == "HTTP/1.1"
    early = lenient.exchange(b"GET /environ HTTP/0.9\r\n\r\n")[0]
    assert environ(early)["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert early.ends_connection
    assert_refused(lenient, request("GET", "/a").replace(b"HTTP/1.1", b"HTTP/22.0"), {400})


# --- what never ends --------------------------------------------------------------------------------------------------


def test_an_endless_head_is_refused(server: Server) -> None:
    assert_endless_is_refused(server, b"GET /a HTTP/1.1\r\nHost: test\r\n", b"X-A: " + b"a" * 1000 + b"\r\n")


def test_an_endless_request_line_is_refused(server: Server) -> None:
    assert_endless_is_refused(server, b"GET /", b"a" * 1000)


@pytest.mark.parametrize(
    "endless", [b"0;" + b"x" * 1000, b"3;" + b"x" * 1000], ids=["last chunk extension", "chunk extension"]
)
def test_an_endless_chunk_extension_is_refused(server: Server, endless: bytes) -> None:
    assert_endless_is_refused(server, CHUNKED_POST + endless, b"x" * 10_000)


def test_an_endless_trailer_section_is_refused(server: Server) -> None:
    assert_endless_is_refused(server, CHUNKED_POST + b"3\r\nabc\r\n0\r\n", b"X-Trailer: " + b"x" * 1000 + b"\r\n")


def assert_endless_is_refused(server: Server, start: bytes, piece: bytes) -> None:
    """Send `start`, and then `piece` again and again, which must be refused within 2 MB."""
    with server.connect() as connection:
        try:
            connection.send(start)
            for _ in range(2_000_000 // len(piece)):
                connection.send(piece)
                if connection.has_input(0):
                    break
            else:
                assert connection.has_input(1), "2 MB were swallowed"
            assert connection.read_response("POST").status in (400, 413, 414, 431)
        except (OSError, ConnectionEnded):
            pass  # closed while we were sending


def test_a_client_that_is_still_sending_can_read_why_it_is_refused(serve: Serve) -> None:
    server = serve(APPLICATION, limit_request_body=1000)
    with server.connect() as connection:
        connection.send(request("POST", "/echo", "Content-Length: 300000"))
        for _ in range(30):
            connection.send(b"x" * 10_000)
        response = connection.read_response("POST")
        assert response.status == 413
        connection.expect_end()


# --- timeouts --------------------------------------------------------------------------------------------------------


def test_a_partial_head_is_answered_with_408(hasty_server: Server) -> None:
    with hasty_server.connect() as connection:
        connection.send(b"GET /a HTTP/1.1\r\nHo")
        with takes(0.5, 6):
            assert connection.read_response().status == 408
        connection.expect_end()


def test_a_head_that_trickles_in_does_not_renew_the_time(hasty_server: Server) -> None:
    with hasty_server.connect() as connection, takes(0.5, 6):
        for _ in range(60):
            connection.send(b"G" * 1)
            if connection.has_input(0.1):
                break
        assert connection.read_response().status == 408
        connection.expect_end()


def test_a_partial_head_after_a_request_is_answered_with_408(hasty_server: Server) -> None:
    with hasty_server.connect() as connection:
        assert connection.request(request("GET", "/a") + b"GET /b").body == b"hello from /a"
        with takes(0.5, 6):
            assert connection.read_response().status == 408
        connection.expect_end()


def test_a_body_that_stalls_is_given_up(hasty_server: Server) -> None:
    start = len(hasty_server.log())
    with hasty_server.connect() as connection:
        connection.send(request("POST", "/count", "Content-Length: 10") + b"12345")
        with takes(0.5, 6), suppress(ConnectionEnded):
            assert connection.read_response("POST").status in (400, 408, 500)
        connection.expect_end()
    assert "served GET /next" not in hasty_server.log()[start:]


def test_a_slow_body_that_makes_progress_is_not_given_up(hasty_server: Server) -> None:
    pieces = [bytes([letter]) * 200 for letter in b"12345"]  # 500 bytes a second
    with hasty_server.connect() as connection:
        connection.send(request("POST", "/echo", "Content-Length: 1000"))
        for piece in pieces:
            time.sleep(0.4)  # together twice the timeout
            connection.send(piece)
        assert connection.read_response("POST").body == b"".join(pieces)


def test_a_body_that_trickles_is_given_up(hasty_server: Server) -> None:
    with hasty_server.connect() as connection:
        connection.send(request("POST", "/echo", "Content-Length: 1000"))
        with takes(0.5, 6):
            for _ in range(100):
                if connection.has_input(0.1):
                    break
                connection.send(b"1")
            assert connection.read_response("POST").status == 408
        connection.expect_end()


def test_a_body_that_never_follows_its_100_is_given_up(hasty_server: Server) -> None:
    with hasty_server.connect() as connection:
        connection.send(request("POST", "/echo", "Content-Length: 5", "Expect: 100-continue"))
        assert connection.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        with takes(0.5, 6):
            assert connection.read_response("POST").status == 408
        connection.expect_end()


def test_without_a_minimum_rate_a_body_may_trickle(serve: Serve) -> None:
    server = serve(APPLICATION, client_body_timeout=1, client_body_min_rate=0)
    with server.connect() as connection:
        connection.send(request("POST", "/echo", "Content-Length: 5"))
        for byte in (b"1", b"2", b"3", b"4", b"5"):
            time.sleep(0.4)  # together twice the timeout
            connection.send(byte)
        assert connection.read_response("POST").body == b"12345"


def test_a_slow_application_is_no_fault_of_its_client(serve: Serve) -> None:
    server = serve(APPLICATION, client_body_timeout=1)
    with server.connect() as connection:
        connection.send(request("POST", "/echo-after/1.5", "Content-Length: 2") + b"1")
        assert not connection.has_input(1.6)
        connection.send(b"2")
        assert connection.read_response("POST").body == b"12"


def test_a_connection_carries_no_more_requests_than_it_may(serve: Serve) -> None:
    server = serve(APPLICATION, keep_alive_requests=3)
    with server.connect() as connection:
        for number, closes in ((1, False), (2, False), (3, True)):
            assert connection.request(request("GET", f"/{number}")).ends_connection is closes
        connection.expect_end()
    # Also in a pipeline: bytes after the last request are no request.
    with server.connect() as connection:
        connection.send(b"".join(request("GET", f"/pipelined-{number}") for number in range(1, 6)))
        assert [connection.read_response().ends_connection for _ in range(3)] == [False, False, True]
        connection.expect_end()
    assert "served GET /pipelined-4" not in server.log()


def test_a_client_that_reads_nothing_is_given_up(serve: Serve) -> None:
    server = serve(APPLICATION, send_timeout=1)
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", "/flood"))
        with takes(0.5, 8):
            server.wait_for_log(r"flood closed after \d+ items")
        assert "Traceback" not in server.log()


# --- faults of the client --------------------------------------------------------------------------------------------


def test_a_client_that_vanishes_costs_no_traceback(serve: Serve) -> None:
    server = serve(APPLICATION)
    with server.connect() as connection:
        connection.send(request("GET", "/flood"))
        connection.read_exactly(100_000)
        connection.abort()
    server.wait_for_log(r"flood closed after \d+ items")
    assert server.get("/a").status == 200
    assert "Traceback" not in server.log()


def test_a_client_that_vanishes_in_its_request_costs_no_traceback(serve: Serve) -> None:
    server = serve(APPLICATION)
    for data in (b"", b"GET /a", request("POST", "/ignored", "Content-Length: 10") + b"12345"):
        with server.connect() as connection:
            connection.send(data)
            connection.abort()
    assert server.get("/a").status == 200
    assert "Traceback" not in server.log()


def test_clients_that_vanish_before_they_are_accepted_leave_nothing_behind(serve: Serve) -> None:
    # CVE-2024-49769: their sockets were never closed, and written to again and again.
    server = serve(APPLICATION)
    server.get("/a")
    at_rest = len(os.listdir(f"/proc/{server.pid}/fd"))
    server.signal(signal.SIGSTOP)
    try:
        for data in (b"", b"GET /a", request("GET", "/a")) * 50:
            with server.connect() as connection:
                connection.send(data)
                connection.abort()
    finally:
        server.signal(signal.SIGCONT)
    with server.connect() as connection:  # behind them in the queue of the kernel
        assert connection.request(request("GET", "/b")).body == b"hello from /b"
        deadline = time.monotonic() + TIMEOUT
        while len(os.listdir(f"/proc/{server.pid}/fd")) > at_rest + 1:
            assert time.monotonic() < deadline, "sockets of clients that are gone are still open"
            connection.request(request("GET", "/c"))
        before = server.cpu_seconds()
        assert not connection.has_input(0.5)
        assert server.cpu_seconds() - before < 0.1
    assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    "data",
    [request("POST", "/count", "Content-Length: 10") + b"12345", CHUNKED_POST + b"a\r\n12345"],
    ids=["sized", "chunked"],
)
def test_a_reset_in_a_body_that_is_being_read_costs_no_traceback(serve: Serve, data: bytes) -> None:
    # As HAProxy ends the connection when its client goes away in an upload.
    server = serve(APPLICATION)
    with server.connect() as connection:
        connection.send(data)
        server.wait_for_log("served POST /count")
        connection.abort()
    server.wait_for_log("400 from 127.0.0.1: the connection ended within the request body")
    assert server.get("/a").status == 200
    assert "Traceback" not in server.log()


def test_a_slow_reader_holds_the_application_back(serve: Serve) -> None:
    server = serve(APPLICATION)
    server.get("/a")
    with server.connect(receive_buffer=65536) as connection:
        connection.send(request("GET", "/flood"))
        connection.read_exactly(100_000)
        before = server.resident_kib()
        for _ in range(20):
            connection.read_exactly(50_000)
            time.sleep(0.02)
        grown = server.resident_kib() - before
        assert grown < 16 * 1024, f"{grown} KiB more in memory"
        connection.abort()
    items = int(server.wait_for_log(r"flood closed after (\d+) items")[1])
    assert items < 320, f"{items} items of 64 KiB were produced for a client that read about 1 MB"


def test_other_clients_are_served_while_one_reads_slowly(serve: Serve) -> None:
    server = serve(APPLICATION)
    with server.connect(receive_buffer=4096) as slow:
        slow.send(request("GET", "/flood"))
        slow.read_exactly(10_000)
        for number in range(20):
            assert server.get(f"/{number}").body == b"hello from /%d" % number
        slow.abort()
    server.wait_for_log("flood closed")


def test_event_streams_hold_neither_each_other_nor_other_clients_up(server: Server) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(server.connect()) for _ in range(100)]
        with takes(1, 10):  # one after the other they would take 100 s
            for stream in streams:
                stream.send(request("GET", "/events/20"))
            for number in range(100):
                assert server.get(f"/{number}").body == b"hello from /%d" % number
            expected = [b"data: %d\n\n" % number for number in range(20)]
            assert all(stream.read_response().chunks == expected for stream in streams)


def test_a_whole_large_response_reaches_a_client_that_reads_slowly(server: Server) -> None:
    body = bytes(number % 251 for number in range(3_000_000))
    with server.connect(receive_buffer=8192) as connection:
        connection.send(request("POST", "/echo", body=body))
        head, length = connection.read_head("POST")
        assert (head.status, length) == (200, len(body))
        received = b""
        while len(received) < length:
            received += connection.read_exactly(min(300_000, length - len(received)))
            time.sleep(0.01)
        assert received == body


@pytest.mark.parametrize("path", ["/echo", "/echo-slowly"])
def test_a_half_closed_client_still_gets_its_answer(server: Server, path: str) -> None:
    with server.connect() as connection:
        connection.send(request("POST", path, body=b"last words"))
        connection.finish_sending()
        response = connection.read_response("POST")
        assert (response.status, response.body) == (200, b"last words")
        connection.expect_end()


@pytest.mark.parametrize("body", [None, b"read"], ids=["no body", "body"])
def test_requests_after_the_last_one_do_not_turn_its_close_into_a_reset(server: Server, body: bytes | None) -> None:
    start = log_start(server)
    last = request("POST" if body else "GET", "/echo", "Connection: close", body=body)
    with server.connect() as connection:
        # More than one read of the server's.
        connection.send(last + request("GET", "/smuggled") * 2000)
        response = connection.read_response()
        assert (response.status, response.ends_connection) == (200, True)
        # Not Connection.receive(), for which a reset is an end like any other (RFC 9112 9.6).
        assert connection.socket.recv(1) == b""
    assert "served GET /smuggled" not in server.log()[start:]


def test_a_half_closed_client_costs_no_cpu(server: Server) -> None:
    # CVE-2024-49769: the end of the stream is readable for ever, and a loop that looks again and again never rests.
    with server.connect() as connection:
        connection.send(request("POST", "/echo-after/1.5", "Content-Length: 1") + b"1")
        connection.finish_sending()
        before = server.cpu_seconds()
        assert not connection.has_input(1)
        assert server.cpu_seconds() - before < 0.2
        assert connection.read_response("POST").body == b"1"
        connection.expect_end()


def test_a_half_closed_client_gets_all_its_pipelined_answers(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/a") + request("GET", "/generator") + request("GET", "/b"))
        connection.finish_sending()
        bodies = [connection.read_response().body for _ in range(3)]
        assert bodies == [b"hello from /a", b"firstsecondthird", b"hello from /b"]
        connection.expect_end()


def test_a_hundred_connections_are_served_in_turn_and_at_once(server: Server) -> None:
    connections = [server.connect() for _ in range(100)]
    try:
        for round_number in range(3):
            for number, connection in enumerate(connections):
                connection.send(request("GET", f"/{round_number}/{number}"))
            for number, connection in enumerate(connections):
                assert connection.read_response().body == b"hello from /%d/%d" % (round_number, number)
    finally:
        for connection in connections:
            connection.close()


# --- the client of these tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: d\r\nServer: s\r\n\r\nokjunk",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\nDate: d\r\nServer: s\r\n\r\nok",
        b"HTTP/1.1 204 No\r\nContent-Length: 0\r\nDate: d\r\nServer: s\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\r\nDate: d\r\nServer: s\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: d\r\nServer: s\r\n\r\n2\r\nok0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: s\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: d\r\nServer: s\r\nX: a\x00\r\n\r\nok",
    ],
    ids=["leftover", "two framings", "length of 204", "bare LF", "bad chunk", "no Date", "NUL"],
)
def test_the_client_of_these_tests_notices_violations(body: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(body)

        thread = threading.Thread(target=answer)
        thread.start()
        fake = Server.__new__(Server)
        fake.address = listener.getsockname()
        with pytest.raises(ProtocolViolation):
            fake.exchange(request("GET", "/"))
        thread.join()


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_million_chunks_of_one_byte_are_read(server: Server) -> None:
    chunks = b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n"
    with server.connect(timeout=60) as connection, takes(0, 30):
        connection.send(request("POST", "/count", "Transfer-Encoding: chunked") + chunks)
        assert connection.read_response("POST").body == b"1000000"
        assert connection.request(NEXT).status == 200


@pytest.fixture
def descriptors() -> Iterator[int]:
    """Allow this process and its children as many descriptors as the machine permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard if hard != resource.RLIM_INFINITY else 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_connections_cost_little_and_hinder_no_client(serve: Serve, descriptors: int) -> None:
    server = serve(APPLICATION, keep_alive=60)
    server.get("/")
    before = server.resident_kib()
    with ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(min(10_000, descriptors - 200))]
        for connection in idle[::2]:
            connection.send(request("GET", "/idle"))
        for connection in idle[::2]:
            assert connection.read_response().status == 200
        assert server.resident_kib() - before < 2 * len(idle)
        with takes(0, 5):
            for _ in range(100):
                assert server.get("/next").status == 200
        assert idle[0].request(NEXT).status == 200
