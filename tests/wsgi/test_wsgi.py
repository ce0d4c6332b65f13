"""PEP 3333: environ, start_response and write(), the body and its close(), wsgi.input, wsgi.file_wrapper."""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import os
import random
import re
import socket
import sys
import time
import urllib.parse
import weakref
from pathlib import Path
from typing import Any

import pytest

import wsgi_app
from frames import HANDSHAKE
from rmeinheld._rmeinheld import FileWrapper
from serving import ConnectionEnded, ProtocolViolation, Response, Serve, Server, request

NEXT = request("GET", "/hello")


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """One server for all tests that do not need options."""
    return serve_module("wsgi_app:app")


def target(where: str, /, **query: object) -> str:
    """A request target; the values of the query are percent-encoded."""
    return where + "?" + urllib.parse.urlencode({name: str(value) for name, value in query.items()}, encoding="latin-1")


def get_and_next(server: Server, path: str, method: str = "GET") -> Response:
    """The response to one request, after making sure that the connection serves the next request as it should."""
    with server.connect() as connection:
        response = connection.request(request(method, path), method)
        if not response.ends_connection:
            assert connection.request(NEXT).body == b"hello"
        connection.finish_sending()
        connection.expect_end()
        return response


def assert_server_error(server: Server, path: str, message: str) -> None:
    """The request gets a clean 500, and the log gets `message` (a regular expression)."""
    start = len(server.log())
    response = get_and_next(server, path)
    assert response.status == 500, f"{response.status} {response.headers} {response.body!r}"
    assert response.header("Set-Cookie") is None
    assert response.header("X-Old") is None
    for leak in (b"Traceback", b"never", b"secret", b"wsgi_app"):
        assert leak not in response.body
    server.wait_for_log(message, start=start)


# --- environ ---------------------------------------------------------------------------------------------------------


def environ_of(server: Server, data: bytes, method: str = "GET") -> dict[str, tuple[str, Any]]:
    """Type and value of each item of the environ of a request."""
    kind, found = ast.literal_eval(server.exchange(data, [method])[0].body.decode())
    assert kind == "dict"
    assert isinstance(found, dict)
    return found


def test_the_environ_is_complete_and_typed(server: Server) -> None:
    with server.connect() as connection:
        client_port = connection.socket.getsockname()[1]
        response = connection.request(request("GET", "/environ-types?a=%20b", "X-Some: value"))
    environ = ast.literal_eval(response.body.decode())[1]
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ-types",
        "QUERY_STRING": "a=%20b",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(client_port),
        "RAW_URI": "/environ-types?a=%20b",
        "REQUEST_URI": "/environ-types?a=%20b",
        "HTTP_HOST": "test",
        "HTTP_X_SOME": "value",
        "wsgi.url_scheme": "http",
    }
    for key, value in expected.items():
        assert environ.get(key) == ("str", value), key
    assert environ["wsgi.version"] == ("tuple", (1, 0))
    assert environ["wsgi.run_once"] == ("bool", False)
    assert environ["wsgi.multiprocess"] == ("bool", False)
    # Requests run side by side in one process, so an application must be as careful as among threads.
    assert environ["wsgi.multithread"] == ("bool", True)
    assert environ["wsgi.input_terminated"] == ("bool", True)
    assert {"wsgi.input", "wsgi.errors", "wsgi.file_wrapper"} <= environ.keys()
    assert environ.get("SERVER_SOFTWARE", ("str", "rmeinheld"))[1].startswith("rmeinheld")


def test_values_named_by_cgi_are_text(server: Server) -> None:
    environ = environ_of(server, request("POST", "/environ-types", "Content-Type: a/b", "X-A: 1", body=b"abc"), "POST")
    for key, (kind, _) in environ.items():
        if "." not in key:
            assert kind == "str", key
    assert environ["CONTENT_TYPE"] == ("str", "a/b")
    assert environ["CONTENT_LENGTH"] == ("str", "3")
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


def test_the_query_string_is_there_when_empty(server: Server) -> None:
    for path in ("/environ-types", "/environ-types?"):
        assert environ_of(server, request("GET", path))["QUERY_STRING"] == ("str", "")


def test_the_protocol_is_that_of_the_request(server: Server) -> None:
    assert environ_of(server, request("GET", "/environ-types"))["SERVER_PROTOCOL"] == ("str", "HTTP/1.1")
    data = b"GET /environ-types HTTP/1.0\r\n\r\n"
    environ = environ_of(server, data)
    assert environ["SERVER_PROTOCOL"] == ("str", "HTTP/1.0")
    assert "HTTP_HOST" not in environ


def test_the_raw_target_is_kept(server: Server) -> None:
    environ = environ_of(server, request("GET", "/environ%2Dtypes?x=%41"))
    assert environ["RAW_URI"] == ("str", "/environ%2Dtypes?x=%41")
    assert environ["REQUEST_URI"] == ("str", "/environ%2Dtypes?x=%41")
    assert environ["PATH_INFO"] == ("str", "/environ-types")


def test_the_environment_of_the_process_is_not_shown(server: Server) -> None:
    assert not {"PATH", "HOME", "PYTHONPATH"} & environ_of(server, request("GET", "/environ-types")).keys()


def test_each_request_has_an_environ_of_its_own(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(3):
            response = connection.request(request("GET", "/spoil-environ"))
            assert ast.literal_eval(response.body.decode()) == ([], "127.0.0.1")


def test_fields_of_one_request_are_not_in_the_next(server: Server) -> None:
    with server.connect() as connection:
        first = connection.request(request("GET", "/environ-types", "X-One: 1", "Cookie: a=1", "User-Agent: first"))
        second = connection.request(request("GET", "/environ-types", "User-Agent: second"))
    assert ast.literal_eval(first.body.decode())[1]["HTTP_USER_AGENT"][1] == "first"
    environ = ast.literal_eval(second.body.decode())[1]
    assert environ["HTTP_USER_AGENT"][1] == "second"
    assert not {"HTTP_X_ONE", "HTTP_COOKIE"} & environ.keys()


def test_each_request_has_a_context_of_its_own(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        for number in range(3):
            response = connection.request(request("GET", f"/context?{number}"))
            assert response.body == b"unset then %d" % number
            # The application, its iterable and close() are one request, and one context.
            server.wait_for_log(f"closed with {number}!", start=start)


# --- wsgiref.validate ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validated(serve_module: Serve) -> Server:
    """A server whose application is wrapped by wsgiref.validate."""
    return serve_module("validated_app:app")


@pytest.mark.parametrize("path", ["/list", "/generator", "/write", "/replaced", "/file"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "chunked"])
def test_the_standard_validator_finds_no_fault(validated: Server, path: str, method: str) -> None:
    start = len(validated.log())
    body = b"first\nsecond\nthird\nfourth\n"
    data = request(method, path)
    if method == "POST":
        data = request("POST", path, "Content-Type: text/plain", body=body)
    if method == "chunked":
        method = "POST"
        data = request("POST", path, "Content-Type: text/plain", chunks=[body[:8], body[8:]])
    (response,) = validated.exchange(data, [method])
    log = validated.log()[start:]
    assert response.status == (404 if path == "/replaced" else 200), log
    if method == "POST":
        assert repr([b"fi", b"rst\n", b"sec", [b"ond\n"], b"third\n", b"fourth\n", b""]).encode() in response.body
    validated.wait_for_log("exercise: lines", start=start)
    for fault in ("AssertionError", "Traceback", "without being closed", "Warning"):
        assert fault not in log, log


# --- start_response --------------------------------------------------------------------------------------------------


def test_start_response_may_not_be_called_twice(server: Server) -> None:
    assert_server_error(server, "/twice", "PEP 3333")
    assert get_and_next(server, "/twice-caught").body in (b"AssertionError", b"TypeError", b"RuntimeError")


def test_exc_info_replaces_what_was_not_sent(server: Server) -> None:
    for path in ("/exc-info-before-headers", "/exc-info-after-empty-items"):
        response = get_and_next(server, path)
        assert (response.status, response.reason, response.body) == (503, "Replaced", b"replaced")
        assert response.header("X-New") == "new"
        assert response.header("X-Old") is None
        assert len(response.all("Content-Type")) == 1


def test_exc_info_is_raised_again_after_the_headers_were_sent(server: Server) -> None:
    for path, message in (
        ("/exc-info-after-headers", "boom after the headers"),
        ("/start-again-after-write", r"boom after write\(\)"),
    ):
        start = len(server.log())
        with server.connect() as connection:
            connection.send(request("GET", path) + NEXT)
            head, _ = connection.read_head()
            assert (head.status, head.framing) == (200, "chunked")
            rest = connection.read_to_end()
        # Without the last chunk the client sees that the body is not whole.
        assert rest.lower() == b"c\r\nalready sent\r\n"
        server.wait_for_log(message, start=start)


def test_exc_info_is_no_fault_in_the_first_call(server: Server) -> None:
    response = get_and_next(server, "/exc-info-as-first-call")
    assert (response.status, response.reason, response.body) == (500, "Mine", b"mine")


def test_start_response_may_be_called_in_the_iteration(server: Server) -> None:
    response = get_and_next(server, "/late")
    assert (response.status, response.header("X-Late"), response.body) == (202, "yes", b"late")
    response = get_and_next(server, "/late-and-empty")
    assert (response.status, response.body) == (202, b"")


@pytest.mark.parametrize("path", ["/never", "/never-and-empty"])
def test_start_response_must_be_called(server: Server, path: str) -> None:
    assert_server_error(server, path, "PEP 3333")


@pytest.mark.parametrize(
    "value",
    [
        None,
        200,
        b"200 OK",
        "",
        "OK",
        "20 OK",
        "2000 OK",
        "99 Low",
        "abc OK",
        "200OK",
        " 200 OK",
        "\xb2\xb2\xb2 OK",
        "200 OK\r\nSet-Cookie: a=b",
        "200 OK\nSet-Cookie: a=b",
        "200 O\rK",
        "200 O\0K",
        "200 \u20ac",
        "100 Continue",
        "103 Early Hints",
        "199 Whatever",
    ],
)
def test_a_bad_status_is_refused(server: Server, value: object) -> None:
    assert_bad_value(server, "/bad-status", value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "text",
        b"",
        5,
        {"X-Name": "value"},
        [None],
        ["ab"],
        ["X-Name", "value"],
        [b"ab"],
        ["X-Name: value"],
        [("X-Name",)],
        [["X-Name"]],
        [[]],
        [["X-Name", "value", "more"]],
        [("X-Name", "value", "more")],
        [("X-Name", 1)],
        [("X-Name", None)],
        [("X-Name", b"value")],
        [(b"X-Name", "value")],
        [("", "value")],
        [("X Name", "value")],
        [("X-Name:", "value")],
        [("X-Name ", "value")],
        [("X-N\xe4me", "value")],
        [("X-Name\r\nSet-Cookie", "a=b")],
        [("X-Name", "value\r\nSet-Cookie: a=b")],
        [("X-Name", "value\nSet-Cookie: a=b")],
        [("X-Name", "value\rSet-Cookie: a=b")],
        [("X-Name", "value\r\n folded")],
        [("X-Name", "val\0ue")],
        [("X-Name", "val\x1bue")],
        [("X-Name", "\u20ac")],
        [("Content-Length", "five")],
        [("Content-Length", "-5")],
        [("Content-Length", "+5")],
        [("Content-Length", "5"), ("Content-Length", "6")],
    ],
)
def test_bad_headers_are_refused(server: Server, value: object) -> None:
    assert_bad_value(server, "/bad-headers", value)


@pytest.mark.parametrize(
    "expression",
    [
        "(('X-A', '1'), ('X-B', '2'))",
        "iter([('X-A', '1'), ('X-B', '2')])",
        "(pair for pair in [('X-A', '1'), ('X-B', '2')])",
        "{'X-A': '1', 'X-B': '2'}.items()",
        "[['X-A', '1'], ['X-B', '2']]",
        "[('X-A', '1'), iter(['X-B', '2'])]",
        "map(list, [('X-A', '1'), ('X-B', '2')])",
        "zip(['X-A', 'X-B'], ['1', '2'])",
    ],
)
def test_the_headers_may_be_any_iterable_of_pairs(server: Server, expression: str) -> None:
    response = get_and_next(server, target("/headers-from", expression=expression))
    assert [(name, value) for name, value in response.headers if name.startswith("X-")] == [("X-A", "1"), ("X-B", "2")]
    assert response.body == b"hello"


def test_an_error_while_the_headers_are_iterated_is_the_applications(server: Server) -> None:
    assert_server_error(server, target("/headers-from", expression="(1 / 0 for _ in [1])"), "ZeroDivisionError")


def assert_bad_value(server: Server, path: str, value: object) -> None:
    """An application that passes `value` to start_response gets a 500 that names PEP 3333."""
    try:
        where = target(path, value=ascii(value))
    except UnicodeEncodeError:
        raise AssertionError("the value cannot be sent") from None
    assert_server_error(server, where, "PEP 3333")


def test_start_response_needs_its_arguments(server: Server) -> None:
    assert_server_error(server, "/wrong-arguments", "TypeError")


def test_fields_of_the_application_are_sent_as_they_are(server: Server) -> None:
    response = get_and_next(server, "/headers-of-the-application")
    assert (response.status, response.reason) == (299, "caf\xe9")
    assert response.all("Set-Cookie") == ["a=1", "b=2"]
    assert response.header("X-Latin") == "caf\xe9"
    assert response.header("X-Empty") == ""


def test_an_application_cannot_break_the_framing_by_its_own_transfer_encoding(server: Server) -> None:
    response = get_and_next(server, "/hop-by-hop")
    assert response.status in (200, 500)
    if response.status == 200:
        assert response.body == b"onetwo"


def test_hop_by_hop_fields_of_the_application_are_dropped(server: Server) -> None:
    # The server decides about the persistence of connections (PEP 3333, Other HTTP Features).
    response = get_and_next(server, "/hop-by-hop-fields")
    assert {name for name, _ in response.headers} == {"Content-Type", "X-Old", "Server", "Date", "Content-Length"}
    assert response.body == b"one"


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, "0"), (304, "5")])
def test_a_length_stays_only_where_a_response_without_a_body_may_have_one(
    server: Server, status: int, length: str | None
) -> None:
    response = get_and_next(server, target("/with-status", status=f"{status} Whatever", length=5))
    assert (response.status, response.header("Content-Length"), response.body) == (status, length, b"")
    assert response.header("Transfer-Encoding") is None


# --- write() ---------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_before_what_is_iterated(server: Server) -> None:
    body = b"one two three four"
    assert get_and_next(server, "/write-then-iterate").body == body
    response = get_and_next(server, target("/write-then-iterate", length=len(body)))
    assert (response.framing, response.body) == ("sized", body)


def test_a_body_may_be_written_only(server: Server) -> None:
    assert get_and_next(server, "/write-only").body == b"only"
    assert get_and_next(server, "/write-only?length=4").body == b"only"


def test_a_response_to_head_drops_what_is_written(server: Server) -> None:
    for path in ("/write-then-iterate", "/write-only", "/write-only?length=4"):
        assert get_and_next(server, path, "HEAD").status == 200


def test_only_bytes_can_be_written(server: Server) -> None:
    assert_server_error(server, "/write-text", "TypeError")


def test_an_error_after_write_ends_the_connection(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/write-then-fail") + NEXT)
        assert connection.read_head()[0].status == 200
        assert connection.read_to_end().lower() == b"c\r\nalready sent\r\n"
    server.wait_for_log(r"failed after write\(\)", start=start)


# --- the body and its close() ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 42, "text", ["text"], [1], [None], b"bytes", {"key": "value"}, [b"", "text"]])
def test_a_result_that_is_no_iterable_of_bytes_is_refused(server: Server, value: object) -> None:
    assert_server_error(server, target("/bad-result", value=repr(value)), "PEP 3333")


def test_an_item_that_is_not_bytes_ends_a_body_that_has_begun(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/bad-item-late") + NEXT)
        assert connection.read_head()[0].status == 200
        assert connection.read_to_end().lower() == b"c\r\nalready sent\r\n"
    server.wait_for_log("PEP 3333", start=start)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/closing", 200, b"onetwo"),
        ("/closing-without-a-body", 204, b""),
        ("/closing-after-an-error", 500, None),
        ("/closing-a-bad-item", 500, None),
        ("/closing-unstarted", 500, None),
        ("/closing-list", 200, b"one"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_once(server: Server, path: str, status: int, body: bytes | None, method: str) -> None:
    start = len(server.log())
    mark = f"{path}?{method}"
    response = get_and_next(server, mark, method)
    if method == "GET":
        assert response.status == status
        assert body is None or response.body == body
    server.wait_for_log(re.escape(f"closed {mark}"), start=start)
    server.get("/hello")
    assert server.log()[start:].count(f"closed {mark}") == 1


def test_close_is_called_when_an_error_cuts_the_body(server: Server) -> None:
    for query in ("?", "?length=10"):
        start = len(server.log())
        with server.connect() as connection:
            connection.send(request("GET", f"/closing-after-a-late-error{query}") + NEXT)
            assert connection.read_head()[0].status == 200
            assert b"hello" not in connection.read_to_end()
        server.wait_for_log("failed in the iteration", start=start)
        server.wait_for_log(re.escape(f"closed /closing-after-a-late-error{query}"), start=start)


def test_a_body_up_to_the_end_of_the_connection_that_an_error_cuts_ends_in_a_reset(server: Server) -> None:
    # An end in order would make it a whole response (RFC 9112 8).
    start = len(server.log())
    with server.connect() as connection:
        connection.send(b"GET /closing-after-a-late-error? HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):  # which Connection.receive() takes for an end like any other
            while connection.socket.recv(65536):
                pass
    server.wait_for_log("failed in the iteration", start=start)


def test_a_body_up_to_the_end_of_the_connection_that_takes_too_long_ends_in_a_reset(serve: Serve) -> None:
    server = serve("wsgi_app:app", send_timeout=0.2)
    with server.connect(receive_buffer=16384) as connection:
        connection.send(b"GET /closing-generator?slow HTTP/1.0\r\n\r\n")
        server.wait_for_log(r"closed /closing-generator\?slow")
        with pytest.raises(ConnectionResetError):
            while connection.socket.recv(65536):
                pass


def test_close_is_called_when_the_client_has_gone(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/closing-generator?gone"))
        connection.read_exactly(100_000)
        connection.abort()
    server.wait_for_log(r"closed /closing-generator\?gone", start=start)
    assert "Traceback" not in server.log()[start:]


def test_a_generator_is_closed_after_head(server: Server) -> None:
    start = len(server.log())
    assert get_and_next(server, "/closing-generator?head", "HEAD").status == 200
    server.wait_for_log(r"closed /closing-generator\?head", start=start)


def test_an_error_in_close_is_logged_and_does_not_harm_the_response(server: Server) -> None:
    start = len(server.log())
    assert get_and_next(server, "/closing-with-an-error").body == b"one"
    server.wait_for_log(r"failed in close\(\)", start=start)


@pytest.mark.parametrize("path", ["/sized", "/sized-list", "/sized-write"])
def test_a_body_beyond_its_length_is_cut(server: Server, path: str) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", f"{path}?length=5&items=10") + NEXT)
        response = connection.read_response()
        assert (response.status, response.body) == (200, b"xxxxx")
        connection.expect_end()
    server.wait_for_log("Content-Length", start=start)


@pytest.mark.parametrize("path", ["/sized", "/sized-list", "/sized-write"])
@pytest.mark.parametrize("items", [0, 5])
def test_a_body_short_of_its_length_ends_the_connection(server: Server, path: str, items: int) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", f"{path}?length=10&items={items}") + NEXT)
        try:
            response = connection.read_response()
        except ConnectionEnded:
            pass  # cut off, so that the client knows
        else:
            # Nothing had been sent yet, so it can still be said properly.
            assert (response.status, items) == (500, 0)
            connection.expect_end()
    server.wait_for_log("Content-Length", start=start)


@pytest.mark.parametrize("path", ["/sized", "/sized-list", "/sized-write"])
def test_a_response_to_head_may_be_short_of_its_length(server: Server, path: str) -> None:
    start = len(server.log())
    response = get_and_next(server, f"{path}?length=10&items=0", "HEAD")
    assert (response.status, response.header("Content-Length")) == (200, "10")
    assert "Content-Length" not in server.log()[start:]


@pytest.mark.parametrize("path", ["/fail", "/fail-after-start"])
def test_a_traceback_goes_to_the_log_and_never_to_the_client(server: Server, path: str) -> None:
    assert_server_error(server, path, r"(?s)Traceback.*RuntimeError: a secret")


def test_an_application_that_exits_does_not_end_the_server(server: Server) -> None:
    start = len(server.log())
    assert get_and_next(server, "/leave").status == 500
    server.wait_for_log("an application must not end the server", start=start)


# --- wsgi.input ------------------------------------------------------------------------------------------------------

BODY = (
    b"first line\nsecond\n\n\r\n" + b"long " * 5000 + b"\nmixed\rends\r\n" + bytes(range(256)) + b"\nlast without end"
)
Script = list[tuple[Any, ...]]

SCRIPTS: list[Script] = [
    [("read",)],
    [("read", -1)],
    [("read", None)],
    [("read", 0), ("read",)],
    [("read", 5), ("read", 100_000), ("read", 1)],
    [("read", 1)] * 30,
    [("readline",)] * 9,
    [("readline", 3)] * 9,
    [("readline", 0), ("readline", -1), ("readline", None), ("readline", 100_000)],
    [("readlines",)],
    [("readlines", None)],
    [("readlines", 0)],
    [("readlines", 1), ("readlines", 15), ("readlines", 100_000)],
    [("next",)] * 9,
    [("read", 3), ("readline",), ("readline", 4), ("next",), ("readlines", 1), ("read", 7), ("read",), ("read",)],
    [("readline",), ("read", 8192), ("readline", 8192), ("readlines",), ("next",), ("readline",)],
]


def random_script(seed: int) -> Script:
    """A mixture of calls, the same for the same seed."""
    choice = random.Random(seed)
    sizes = [0, 1, 2, 5, 17, 300, 8191, 8192, 8193, 20_000]
    calls: list[Script] = [
        [("read", choice.choice(sizes)), ("readline",), ("readline", choice.choice(sizes)), ("next",)],
        [("readlines", choice.choice([1, 5, 40])), ("readline", -1), ("read", choice.choice(sizes))],
    ]
    script = [choice.choice(choice.choice(calls)) for _ in range(choice.randrange(1, 12))]
    return [*script, choice.choice([("read",), ("readlines",), ("read", -1)]), ("read", 1), ("readline",)]


SCRIPTS += [random_script(seed) for seed in range(30)]
FRAMINGS = ["sized", "one chunk", "chunks of 7", "chunks of 5000"]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_wsgi_input_reads_as_a_file(server: Server, framing: str) -> None:
    for script in SCRIPTS:
        where = target("/input", script=repr(script))
        if framing == "sized":
            data = request("POST", where, body=BODY)
        else:
            size = {"one chunk": len(BODY), "chunks of 7": 7, "chunks of 5000": 5000}[framing]
            data = request("POST", where, chunks=[BODY[at : at + size] for at in range(0, len(BODY), size)])
        expected = wsgi_app.replay(io.BytesIO(BODY), script)
        with server.connect() as connection:
            response = connection.request(data, "POST")
            assert response.body == repr(expected).encode(), script
            assert connection.request(NEXT).body == b"hello"


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_wsgi_input_reads_as_a_file_while_the_body_arrives(server: Server, framing: str) -> None:
    body = b"first\nsecond\nthird line\nfourth"
    for script in SCRIPTS[:16]:
        where = target("/input", script=repr(script))
        data = request("POST", where, body=body) if framing == "sized" else request("POST", where, chunks=[body])
        head, _, rest = data.partition(b"\r\n\r\n")
        with server.connect() as connection:
            connection.send(head + b"\r\n\r\n")
            connection.send_slowly(rest, step=4, pause=0.002)
            response = connection.read_response("POST")
        assert response.body == repr(wsgi_app.replay(io.BytesIO(body), script)).encode(), script


def test_a_request_without_a_body_reads_as_an_empty_file(server: Server) -> None:
    for script in SCRIPTS[:16]:
        expected = repr(wsgi_app.replay(io.BytesIO(b""), script)).encode()
        assert get_and_next(server, target("/input", script=repr(script))).body == expected, script


def test_a_read_past_the_end_of_the_body_is_empty(server: Server) -> None:
    expected = repr((True, b"body", b"", b"", b"")).encode()
    for data in (
        request("POST", "/input-terminated", body=b"body"),
        request("POST", "/input-terminated", chunks=[b"bo", b"dy"]),
    ):
        first, second = server.exchange(data + NEXT, ["POST", "GET"])
        assert (first.body, second.body) == (expected, b"hello")


def test_the_body_can_be_read_while_the_response_is_sent(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("POST", "/input-in-the-iteration", "Content-Length: 8") + b"1234")
        head, _ = connection.read_head("POST")
        assert head.status == 200
        connection.send(b"5678")
        assert b"".join(connection.read_chunks()) == b"start 12345678 end"
        assert connection.request(NEXT).body == b"hello"


def test_wsgi_input_refuses_arguments_as_a_file_does(server: Server) -> None:
    (response,) = server.exchange(request("POST", "/input-with-bad-arguments", body=b"body"), ["POST"])
    assert ast.literal_eval(response.body.decode()) == (["TypeError"] * 3, b"body")


def test_wsgi_errors_writes_text_to_the_log(server: Server) -> None:
    start = len(server.log())
    server.get("/errors")
    for line in ("errors: one caf\xe9 \u20ac", "errors: two", "errors: three", "errors: four"):
        server.wait_for_log(f"{line}$", start=start)


# --- wsgi.file_wrapper -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content() -> bytes:
    """The contents of the file that is served: 300,000 bytes."""
    return b"".join(b"%07d\n" % number for number in range(37_500))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    """A file with `content`."""
    path = tmp_path_factory.mktemp("files") / "content"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module", params=["sendfile", "read"])
def file_server(request: pytest.FixtureRequest, serve_module: Serve) -> Server:
    """A server that uses sendfile, and one that may not."""
    return serve_module("wsgi_app:app", no_sendfile=request.param == "read")


@pytest.mark.parametrize("kind", ["buffered", "unbuffered", "reported", "bytesio", "reading", "gzip"])
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
def test_a_whole_file_is_sent(file_server: Server, path: Path, content: bytes, kind: str, sized: bool) -> None:
    query: dict[str, object] = {"length": len(content)} if sized else {}
    response = get_and_next(file_server, target("/file", path=path, kind=kind, **query))
    assert response.status == 200
    assert response.body == content
    if sized:
        assert response.framing == "sized"


@pytest.mark.parametrize("kind", ["buffered", "unbuffered", "bytesio"])
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
def test_a_file_is_sent_from_its_position(
    file_server: Server, path: Path, content: bytes, kind: str, sized: bool
) -> None:
    query: dict[str, object] = {"length": len(content) - 1234} if sized else {}
    response = get_and_next(file_server, target("/file", path=path, kind=kind, seek=1234, **query))
    assert response.body == content[1234:]


def test_a_file_that_was_partly_read_is_sent_from_there(file_server: Server, path: Path, content: bytes) -> None:
    # The descriptor is further than the reader of the buffered file.
    response = get_and_next(file_server, target("/file", path=path, kind="partly-read"))
    assert response.body == content[10:]


def test_a_file_that_is_closed_while_it_is_sent_is_sent_to_its_end(serve: Serve) -> None:
    server = serve(
        """
        import os, tempfile

        LENGTH = 40_000_000
        sent = []

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", str(LENGTH))])
            if environ["PATH_INFO"] == "/file":
                file = tempfile.TemporaryFile()
                os.truncate(file.fileno(), LENGTH)
                sent.append((file, file.fileno()))
                return environ["wsgi.file_wrapper"](file)
            file, number = sent.pop()
            file.close()
            # Its number is another file's from now on.
            other = tempfile.TemporaryFile()
            for _ in range(40):
                other.write(b"x" * 1_000_000)
            other.flush()
            os.dup2(other.fileno(), number)
            return [bytes(LENGTH)]
        """
    )
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", "/file"))
        _, length = connection.read_head()
        server.get("/close")
        received, zeros = len(connection.buffer), connection.buffer.count(0)
        while received < length:
            data = connection.socket.recv(1 << 20)
            assert data, "the response is cut off"
            received += len(data)
            zeros += data.count(0)
    assert (received, zeros) == (length, length)


@pytest.mark.parametrize("kind", ["buffered", "unbuffered", "bytesio", "reading"])
def test_a_file_longer_than_its_length_is_cut(file_server: Server, path: Path, content: bytes, kind: str) -> None:
    with file_server.connect() as connection:
        response = connection.request(request("GET", target("/file", path=path, kind=kind, length=100_000)))
    assert response.body == content[:100_000]


@pytest.mark.parametrize("kind", ["buffered", "unbuffered"])
def test_a_range_of_a_file_leaves_the_connection_as_it_is(server: Server, path: Path, kind: str) -> None:
    response = get_and_next(server, target("/file", path=path, kind=kind, seek=1000, length=500))
    assert not response.ends_connection


def test_a_file_that_refers_to_its_wrapper_can_be_collected() -> None:
    class File:
        wrapper: object

        def read(self, size: int) -> bytes:
            return b""

    file = File()
    file.wrapper = FileWrapper(file)
    reference = weakref.ref(file)
    del file
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("kind", ["buffered", "unbuffered", "bytesio", "reading"])
def test_a_file_shorter_than_its_length_ends_the_connection(
    file_server: Server, path: Path, content: bytes, kind: str
) -> None:
    with file_server.connect() as connection:
        connection.send(request("GET", target("/file", path=path, kind=kind, length=len(content) + 100)) + NEXT)
        assert connection.read_head()[1] == len(content) + 100
        assert connection.read_to_end() == content


def test_an_empty_file_is_sent(file_server: Server, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for kind in ("buffered", "bytesio"):
        response = get_and_next(file_server, target("/file", path=empty, kind=kind))
        assert (response.status, response.body) == (200, b"")


def test_a_seek_beyond_the_end_sends_nothing(file_server: Server, path: Path) -> None:
    response = get_and_next(file_server, target("/file", path=path, kind="buffered", seek=10_000_000))
    assert (response.status, response.body) == (200, b"")


def test_a_pipe_is_sent(file_server: Server, path: Path, content: bytes) -> None:
    assert get_and_next(file_server, target("/file", path=path, kind="pipe")).body == content[:30_000]


@pytest.mark.parametrize("kind", ["buffered", "bytesio", "reported"])
def test_a_response_to_head_sends_no_file(file_server: Server, path: Path, content: bytes, kind: str) -> None:
    response = get_and_next(file_server, target("/file", path=path, kind=kind, length=len(content)), "HEAD")
    assert response.header("Content-Length") == str(len(content))


@pytest.mark.parametrize("kind", ["reading", "reported"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_is_closed_once(file_server: Server, path: Path, kind: str, method: str) -> None:
    # The file of the test before may be closed after its response has been read.
    url = target("/file", path=path, kind=kind, own=f"{kind}-{method}")
    get_and_next(file_server, url, method)
    file_server.wait_for_log(rf"closed {re.escape(url)}\n")
    assert file_server.log().count(f"closed {url}\n") == 1


def test_a_file_is_closed_when_the_client_has_gone(file_server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    for kind in ("reading", "reported"):
        start = len(file_server.log())
        with file_server.connect() as connection:
            connection.send(request("GET", target("/file", path=large, kind=kind)))
            connection.read_exactly(100_000)
            connection.abort()
        file_server.wait_for_log("closed /file", start=start)
        assert "Traceback" not in file_server.log()[start:]


def test_five_megabytes_reach_a_slow_reader_whole(file_server: Server, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    large = tmp_path / "large"
    large.write_bytes(data)
    with file_server.connect(receive_buffer=16384) as connection:
        connection.send(request("GET", target("/file", path=large, kind="buffered", length=len(data))))
        assert connection.read_head()[1] == len(data)
        received = b""
        while len(received) < len(data):
            received += connection.read_exactly(min(250_000, len(data) - len(received)))
            time.sleep(0.01)
        assert received == data
        # Another client is served while this connection sends a file.
        connection.send(request("GET", target("/file", path=large, kind="buffered", length=len(data))))
        assert file_server.get("/hello").body == b"hello"


def segments_with_data(connection: socket.socket) -> int:
    """The number of received segments that had data: `tcpi_data_segs_in` of Linux's `struct tcp_info`."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 156)
    return int.from_bytes(information[152:156], sys.byteorder)


def test_a_head_and_its_short_file_share_a_segment(serve: Serve, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"short")
    server = serve("wsgi_app:app")
    with server.connect() as connection:
        before = segments_with_data(connection.socket)
        connection.send(request("GET", target("/file", path=short, kind="buffered", length=5)))
        connection.read_head()
        assert connection.read_exactly(5) == b"short"
        assert segments_with_data(connection.socket) == before + 1


def test_the_head_of_a_file_that_cannot_be_read_is_sent(serve: Serve) -> None:
    server = serve(
        """
        import tempfile

        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "5")])
            with tempfile.NamedTemporaryFile() as named:
                named.write(b"bytes")
                named.flush()
                file = open(named.name, "ab", buffering=0)
            file.seek(0)
            return environ["wsgi.file_wrapper"](file)
        """
    )
    with server.connect() as connection:
        connection.send(request("GET", "/"))
        assert connection.socket.recv(1000).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionResetError):
            assert connection.socket.recv(1000) == b""


def test_a_middleware_can_iterate_a_file_wrapper(file_server: Server, path: Path, content: bytes) -> None:
    for kind, block in (("buffered", 1000), ("reading", 8192), ("bytesio", 1)):
        size = 2000 if block == 1 else None
        response = get_and_next(
            file_server,
            target("/file", path=path, kind=kind, block=block, iterated=1, **({"seek": 298_000} if size else {})),
        )
        assert response.body == (content[-2000:] if size else content)


def test_a_file_follows_what_was_written(file_server: Server, path: Path, content: bytes) -> None:
    assert get_and_next(file_server, target("/file-after-write", path=path)).body == b"before " + content
    length = len(content) + 7
    response = get_and_next(file_server, target("/file-after-write", path=path, length=length))
    assert response.body == b"before " + content


def test_http_1_0_is_sent_files_too(file_server: Server, path: Path, content: bytes) -> None:
    where = target("/file", path=path, kind="buffered")
    (response,) = file_server.exchange(f"GET {where} HTTP/1.0\r\n\r\n".encode())
    assert response.body == content


def test_the_client_of_these_tests_notices_a_missing_final_chunk(server: Server) -> None:
    with server.connect() as connection, pytest.raises((ConnectionEnded, ProtocolViolation)):
        connection.request(request("GET", "/exc-info-after-headers"))


def test_a_file_whose_size_is_unknown_is_sent(file_server: Server) -> None:
    # Files of /proc are regular and say that they are empty.
    response = get_and_next(file_server, target("/file", path="/proc/self/status", kind="buffered"))
    assert f"Pid:\t{file_server.pid}\n".encode() in response.body


def test_a_file_over_2_gib_is_sent_whole(file_server: Server, tmp_path: Path) -> None:
    # The file's length and positions need more than 31 bits. It has no data on the disk but its last bytes.
    size = 2**31 + 10_000_000
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(size)
        file.seek(size - 3)
        file.write(b"end")
    start = 2**31 - 5_000_000  # the borderline is passed on the way
    with file_server.connect() as connection:
        connection.send(request("GET", target("/file", path=huge, kind="buffered", seek=start, length=size - start)))
        response = connection.read_response()
        assert (len(response.body), response.body[-4:]) == (size - start, b"\0end")
        assert connection.request(NEXT).status == 200
    head = get_and_next(file_server, target("/file", path=huge, kind="buffered", length=size), "HEAD")
    assert head.header("Content-Length") == str(size)


def test_a_file_for_a_client_that_stops_reading_holds_no_other_client_up(file_server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(50_000_000)
    with file_server.connect(receive_buffer=4096) as slow:
        slow.send(request("GET", target("/file", path=large, kind="buffered")))
        assert slow.has_input(5)
        before = file_server.resident_kib()
        for _ in range(20):
            assert file_server.exchange(NEXT)[0].body == b"hello"
        assert file_server.resident_kib() - before < 2000
        response = slow.read_response()
        assert len(response.body) == 50_000_000


def test_a_generator_read_at_50_kb_a_second_keeps_memory_flat(serve: Serve) -> None:
    server = serve(
        """
        CHUNK = bytes(64 * 1024)

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "application/octet-stream")])
            return (CHUNK for _ in range(1024 * 1024 * 1024 // len(CHUNK)))
        """
    )
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", "/"))
        connection.read_until(b"\r\n\r\n")
        before = server.resident_kib()
        grown = []
        for _ in range(50):  # five seconds of it
            connection.read_exactly(5_000)
            grown.append(server.resident_kib() - before)
            time.sleep(0.1)
        assert max(grown) < 1000, grown
        connection.abort()
    assert "Traceback" not in server.log()


# --- exchanges that end early or late --------------------------------------------------------------------------------

ENDING_APP = """
class Closing:
    def __init__(self, write):
        self.write, self.parts = write, iter([b"one", b"two"])
    def __iter__(self):
        return self.parts
    def close(self):
        self.write(b"late")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/next":
        start_response("200 OK", [("Content-Length", "4")])
        return [b"next"]
    write = start_response("200 OK", [])
    if environ["PATH_INFO"] == "/late":
        return Closing(write)
    write(b"part")
    raise StopIteration
"""


@pytest.fixture(scope="module")
def ending(serve_module: Serve) -> Server:
    return serve_module(ENDING_APP, keep_alive=60)


def test_write_after_the_end_of_a_response_does_not_reach_the_client(ending: Server) -> None:
    with ending.connect() as connection:
        connection.send(request("GET", "/late") + request("GET", "/next"))
        assert connection.read_response().body == b"onetwo"
        assert connection.read_response().body == b"next"
    ending.wait_for_log("write\\(\\) was called after the response was complete")


def test_a_response_that_a_taken_over_connection_leaves_unfinished_ends_it(ending: Server) -> None:
    with ending.connect(timeout=10) as connection:
        connection.send(request("GET", "/part", *HANDSHAKE) + request("GET", "/next"))
        assert connection.read_head()[0].status == 200
        assert connection.read_to_end().lower() == b"4\r\npart\r\n"


# --- wsgi.early_hints ------------------------------------------------------------------------------------------------

HINTING_APP = """
import ast, urllib.parse

class Once:
    def __init__(self, environ):
        self.environ, self.parts = environ, [b"a", b"b"]
    def __iter__(self):
        return self
    def __next__(self):
        if not self.parts:
            raise StopIteration
        # The head goes out with the first part.
        self.environ["wsgi.early_hints"]([("X-Late", "1")])
        return self.parts.pop(0)

LATE = []

def app(environ, start_response):
    hint = environ["wsgi.early_hints"]
    headers = ast.literal_eval(urllib.parse.unquote_to_bytes(environ["QUERY_STRING"]).decode())
    if environ["PATH_INFO"] == "/iterable":
        hint(iter(headers))
    else:
        try:
            for some in headers:
                hint(some)
        except (TypeError, ValueError) as fault:
            body = f"{type(fault).__name__}: {fault}".encode()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
    while LATE:
        LATE.pop()([("X-Ended", "1")])
    LATE.append(hint)
    start_response("200 OK", [("Content-Length", "2")])
    hint([("X-Started", "1")])
    return Once(environ)
"""


@pytest.fixture(scope="module")
def hinting(serve_module: Serve) -> Server:
    """A server whose application sends the hints that the query names, as a list of lists of pairs."""
    return serve_module(HINTING_APP)


def hints(server: Server, headers: object, *, where: str = "/", method: str = "GET", version: str = "1.1") -> list[Any]:
    """The status and the fields of each interim response, and then status and body of the response."""
    query = urllib.parse.quote(repr(headers))
    seen: list[Any] = []
    with server.connect() as connection:
        for _ in range(2):  # the connection must be in order afterwards
            response = connection.request(request(method, f"{where}?{query}", version=version), method)
            seen = []
            while response.status < 200:
                seen.append((response.status, response.headers))
                response = connection.read_response(method)
            seen.append((response.status, response.body))
            if response.ends_connection:
                break
    return seen


def test_early_hints_go_before_the_response(hinting: Server) -> None:
    link = ("Link", "</style.css>; rel=preload; as=style")
    started = (103, [("X-Started", "1")])
    late = (103, [("X-Late", "1")])
    assert hints(hinting, [[link], [("X-A", " b "), (b"X-B", b"\xe4")]]) == [
        (103, [link]),
        (103, [("X-A", "b"), ("X-B", "\xe4")]),
        started,
        late,
        (200, b"ab"),
    ]
    assert hints(hinting, [("X-A", "b"), ["X-C", "d"]], where="/iterable")[0] == (103, [("X-A", "b"), ("X-C", "d")])
    assert hints(hinting, [[]]) == [(103, []), started, late, (200, b"ab")]
    assert hints(hinting, [[link]], method="HEAD")[-1] == (200, b"")
    # Nothing goes out once the head has, nor after the request.
    assert "Traceback" not in hinting.log()


def test_clients_of_http_1_0_get_no_early_hints(hinting: Server) -> None:
    assert hints(hinting, [[("X-A", "b")]], version="1.0") == [(200, b"ab")]


def test_fields_of_the_connection_and_of_a_body_are_no_early_hints(hinting: Server) -> None:
    fields = [("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Upgrade", "x")]
    assert hints(hinting, [[*fields, ("X-A", "b")]])[0] == (103, [("X-A", "b")])


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        (("X-A", "b\r\nSet-Cookie: c"), "ValueError: early hint \"X-A\": CR or LF in a response field value"),
        (("X-A", b"b\n"), "ValueError: early hint \"X-A\": CR or LF"),
        (("X-A", "b\0"), "ValueError: early hint \"X-A\": a control character"),
        (("X A", "b"), "ValueError: early hint \"X A\": the name of a response header is not a token"),
        (("X-A\r\nB", "b"), "ValueError: early hint"),
        (("", "b"), "ValueError: early hint"),
        (("X-A", "\u20ac"), "ValueError: an early hint has a character outside latin-1"),
        (("X-A", 1), "TypeError: names and values of early hints must be str or bytes, not int"),
        (("X-A",), "TypeError: each early hint must be a pair of name and value"),
        ("ab", "TypeError: "),
        (None, "TypeError: "),
    ],
)  # fmt: skip
def test_early_hints_are_checked_as_the_fields_of_a_response(hinting: Server, field: object, fault: str) -> None:
    ((status, body),) = hints(hinting, [[("X-First", "1"), field]])
    assert status == 200
    assert body.decode().startswith(fault)
