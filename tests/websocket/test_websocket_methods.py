"""Methods of a WebSocket for more than sending and receiving: pings, time limits, JSON, blocks, options of a route."""

from __future__ import annotations

import ast
import json
import re
import struct
import time

import pytest

from frames import BINARY, CLOSE, FIN, PING, PONG, TEXT, Client, close, frame, text
from serving import Connection, Serve, Server, request

APPLICATION = "websocket_methods_app:app"

BOTH = pytest.mark.parametrize("where", ["", "/thread"], ids=["coroutine", "thread"])
"""Where the application uses the WebSocket."""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server that all tests share."""
    return serve_module(APPLICATION, websocket_close_timeout=1, websocket_max_message_size=1000, log_level="debug")


def ping_of(client: Client) -> bytes:
    """The payload of the next frame, which is a ping."""
    first, payload = client.frame()
    assert first == FIN | PING, (first, payload)
    return payload


# --- pings -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_ping_returns_the_time_until_its_answer(server: Server, where: str) -> None:
    with Client(server, f"{where}/pings") as client:
        payload = ping_of(client)
        client.send(frame(FIN | PONG, b"unasked for") + frame(FIN | PONG))
        time.sleep(0.05)
        client.send(frame(FIN | PONG, payload))
        assert client.text() == "[None, True, True]"
        assert ping_of(client) == b"mine"
        client.send(frame(FIN | PONG, b"mine"))
        assert client.text() == "[True, True]"


def test_an_answer_to_the_latest_ping_answers_the_earlier_ones(server: Server) -> None:
    with Client(server, "/pings_at_once") as client:
        assert [ping_of(client), ping_of(client)] == [b"one", b"two"]
        client.send(frame(FIN | PONG, b"two"))
        said = sorted(ast.literal_eval(client.text()))
        assert said == ["True", "True", "ValueError: the answer to a ping with the payload b'one' is waited for"]


@BOTH
def test_a_ping_without_an_answer_ends_in_time_and_when_the_client_closes(server: Server, where: str) -> None:
    start = len(server.log())
    with Client(server, f"{where}/pings_in_vain") as client:
        assert ping_of(client) == b"first"
        assert client.text() == "None"
        ping_of(client)
        assert client.text() == "TimeoutError: the client did not answer the ping in time"
        ping_of(client)
        client.send(close(4001))
        client.expect_close(4001)
    server.wait_for_log(r"closed ConnectionClosed: the WebSocket is closed \(4001\)", start=start)


@BOTH
def test_the_latency_of_a_ping_that_nothing_waits_for_is_noted(server: Server, where: str) -> None:
    with Client(server, f"{where}/answered_later") as client:
        assert ping_of(client) == b"later"
        assert client.text() == "pinged"
        time.sleep(0.1)
        client.send(frame(FIN | PONG, b"later"))
        assert client.text() == "True"


def test_the_answer_to_a_keep_alive_ping_counts_as_latency(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_ping_interval=0.2)
    with Client(server, "/kept_alive") as client:
        client.send(text("before"))
        assert client.text() == "None"
        client.send(frame(FIN | PONG, ping_of(client)) + text("after"))
        assert 0 <= float(client.text()) < 5
        client.end_in_order()


@BOTH
def test_the_silence_of_a_client_is_known(server: Server, where: str) -> None:
    with Client(server, f"{where}/silence") as client:
        assert client.text() == "go on"
        client.send(text("spoken"))
        assert client.text() == "[None, True, True]"


def test_clients_that_come_together_are_not_pinged_together(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_ping_interval=2)
    clients = [Client(server, "/waits") for _ in range(100)]
    try:
        started = time.monotonic()
        times = []
        for client in clients:
            client.connection.socket.setblocking(False)
        left = set(range(len(clients)))
        while left:
            assert time.monotonic() - started < 15, len(left)
            for number in list(left):
                try:
                    assert clients[number].connection.socket.recv(100)[:2] == bytes([FIN | PING, 4])
                except BlockingIOError:
                    continue
                left.discard(number)
                times.append(time.monotonic() - started)
            time.sleep(0.01)
        assert 0.3 < times[0] and times[90] - times[10] > 0.4, times
    finally:
        for client in clients:
            client.connection.abort()


def test_a_silent_client_is_pinged_by_default() -> None:
    from rmeinheld.settings import Settings

    settings = Settings()
    assert (settings.websocket_ping_interval, settings.websocket_ping_timeout) == (20, 20)


# --- sending with a time limit ---------------------------------------------------------------------------------------


@BOTH
def test_nothing_of_a_message_without_room_in_time_is_sent(serve: Serve, where: str) -> None:
    server = serve(APPLICATION)
    with Client(server, f"{where}/stalled", receive_buffer=16 * 1024) as client:
        found = server.wait_for_log(r"sent (\d+) (\w+) no room for the message in time: (\d+) bytes wait")
        assert found[2] == "False" and int(found[3]) >= 64 * 1024
        server.wait_for_log("at once TimeoutError: no room")
        server.wait_for_log("json TimeoutError: no room")
        server.wait_for_log("ping TimeoutError: no room")
        for number in range(int(found[1])):
            assert client.text() == f"{number} " + "x" * 10_000
        assert client.text() == "last"
        client.expect_close_from_server(1000)


# --- JSON ------------------------------------------------------------------------------------------------------------


@BOTH
def test_json_is_sent_and_received_in_text(server: Server, where: str) -> None:
    start = len(server.log())
    with Client(server, f"{where}/json") as client:
        values: list[object] = [{"a": [1, 2.5, None, True, "\u20ac"]}, None, [], "x"]
        for value in values:
            client.send(text(json.dumps(value)))
            answer = client.text()
            assert json.loads(answer) == value and ": " not in answer and "\\u" not in answer
        client.end_in_order()
    server.wait_for_log("JSON ends 1000", start=start)


def test_a_message_that_is_not_json_is_a_value_error_with_its_beginning(server: Server) -> None:
    with Client(server, "/json") as client:
        client.send(text("{bad " + "x" * 200))
        message = client.text()
        assert message.startswith("not JSON: '{bad xxxx") and "x'...: Expecting property name" in message
        assert len(message) < 200
        client.send(text("[" * 500 + "\u20ac"))
        assert client.text().startswith("not JSON: '[[[[")
        client.send(text(""))
        assert client.text().startswith("not JSON: '': Expecting value")
        client.send(frame(FIN | BINARY, b"\xff{}"))
        assert client.text() == r"JSON comes in text, and this message of 3 bytes is binary: b'\xff{}'"
        client.send(text("[1]"))
        assert client.text() == "[1]"
        client.end()


def test_json_nested_more_deeply_than_python_recurses_is_a_value_error(serve: Serve) -> None:
    server = serve(APPLICATION)
    with Client(server, "/json") as client:
        client.send(text("[" * 200_000))
        assert client.text().startswith("not JSON: '[[[[")
        client.send(text("[1]"))
        assert client.text() == "[1]"
        client.end()


# --- arguments -------------------------------------------------------------------------------------------------------


@BOTH
def test_wrong_arguments_raise_and_leave_the_connection_as_it_was(server: Server, where: str) -> None:
    with Client(server, f"{where}/wrong") as client:
        for expected in (
            "ValueError: timeout must be a number of seconds >= 0, not -1",
            "ValueError: a text message must be UTF-8 (RFC 6455 8.1): ",
            "ValueError: payload must be at most 125 bytes, not 126 (RFC 6455 5.5)",
            "ValueError: timeout must be a number of seconds >= 0, not -1",
            "ValueError: reason must be UTF-8 (RFC 6455 5.5.1): ",
            "ValueError: reason must be at most 123 bytes of UTF-8, not 124",
            "ValueError: Out of range float values are not JSON compliant",
            "TypeError: Object of type set is not JSON serializable",
            "ValueError: timeout must be a number of seconds >= 0, not -1",
            "TimeoutError: no message arrived in time",
        ):
            assert client.text().startswith(expected)
        client.expect_close_from_server(1000)


def test_options_out_of_range_raise_and_the_request_can_still_be_accepted(server: Server) -> None:
    with Client(server, "/wrong_options") as client:
        for expected in (
            "ValueError: max_message_size must be from 1 to 2147483647 bytes, not 0",
            "ValueError: max_message_size must be from 1 to 2147483647 bytes, not 2147483648",
            "ValueError: ping_interval must be from 0 to 31536000 seconds, not -1",
            "ValueError: ping_interval must be from 0 to 31536000 seconds, not NaN",
        ):
            assert client.text() == expected


@BOTH
def test_a_route_has_its_own_limit_and_its_own_pings(serve: Serve, where: str) -> None:
    server = serve(APPLICATION, websocket_max_message_size=1000, websocket_ping_interval=0.1)
    with Client(server, f"{where}/small") as small, Client(server, f"{where}/large") as large:
        large.send(text("x" * 200_000))
        assert large.text() == "200000"
        small.send(frame(FIN | PONG, ping_of(small)) + text("x" * 10))
        while (received := small.frame()).first == FIN | PING:
            pass
        assert received == (FIN | TEXT, b"x" * 10)
        small.send(text("x" * 11))
        while (received := small.frame()).first == FIN | PING:
            pass
        assert received == (FIN | CLOSE, struct.pack("!H", 1009))
        assert not large.connection.has_input(0.3)
        large.send(text("x" * 200_001))
        assert large.frame() == (FIN | CLOSE, struct.pack("!H", 1009))


# --- blocks ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_block_accepts_and_closes(server: Server, where: str) -> None:
    start = len(server.log())
    with Client(server, f"{where}/block") as client:
        assert client.text() == "within"
        client.expect_close_from_server(1000)
    server.wait_for_log("after the block True 1000", start=start)
    with Client(server, f"{where}/accepted_block") as client:
        assert client.headers["X-Room"] == "1"
        client.expect_close_from_server(4000, "own")


@BOTH
def test_an_exception_ends_a_block_with_1011(server: Server, where: str) -> None:
    start = len(server.log())
    with Client(server, f"{where}/failing_block") as client:
        client.expect_close_from_server(1011)
    server.wait_for_log("after the error 1011", start=start)


def test_a_client_that_goes_ends_a_block_without_an_error_in_the_log(server: Server) -> None:
    start = len(server.log())
    with Client(server, "/left_block") as client:
        client.send(text("x"))
        assert client.text() == "x"
        client.send(close(4002))
        client.expect_close(4002)
    with Client(server, "/waits") as client:
        client.end()
    assert "Traceback" not in server.log()[start:]


def test_the_handshake_may_set_several_cookies_and_other_headers(server: Server) -> None:
    with Client(server, "/cookies") as client:
        assert client.cookies == [
            r'user="7\073 \303\251"; HttpOnly; Path=/; SameSite=Lax',
            "theme=dark; Path=/",
        ]
        assert client.headers["X-Room"] == "caf\xe9"
        assert client.text() == "set"


# --- code for gevent-websocket ---------------------------------------------------------------------------------------


@BOTH
def test_code_for_gevent_websocket_runs(server: Server, where: str) -> None:
    start = len(server.log())
    with Client(server, f"{where}/gevents") as client:
        assert [client.frame() for _ in range(3)] == [
            (FIN | BINARY, b"text"), (FIN | TEXT, b"bytes"), (FIN | BINARY, b"more")
        ]  # fmt: skip
        client.send(text("echo"))
        assert client.text() == "echo"
        client.end()
    server.wait_for_log("an OSError: True", start=start)
    with Client(server, f"{where}/bye") as client:
        client.expect_close_from_server(1000, "bye")


def test_the_exceptions_of_gevent_websocket_can_be_imported() -> None:
    from rmeinheld import geventwebsocket
    from rmeinheld.geventwebsocket import exceptions
    from rmeinheld.websocket import ConnectionClosed, WebSocketError

    assert geventwebsocket.WebSocketError is exceptions.WebSocketError is WebSocketError
    assert issubclass(ConnectionClosed, WebSocketError) and issubclass(WebSocketError, OSError)
    assert issubclass(exceptions.FrameTooLargeException, exceptions.ProtocolError)


# --- origins ---------------------------------------------------------------------------------------------------------


def upgrade(connection: Connection, *fields: str, host: str) -> int:
    """The status of a handshake."""
    from frames import HANDSHAKE

    lines = ["GET /waits HTTP/1.1", f"Host: {host}", *HANDSHAKE, *fields]
    connection.send("\r\n".join([*lines, "", ""]).encode())
    return connection.read_head()[0].status


@pytest.mark.parametrize("trusted", [False, True], ids=["untrusted", "trusted"])
def test_only_pages_of_the_same_host_may_connect(serve: Serve, *, trusted: bool) -> None:
    headers = "x-forwarded-for,x-forwarded-host"
    options = {"forwarded_allow_ips": "127.0.0.1", "trusted_proxy_headers": headers} if trusted else {}
    server = serve(APPLICATION, websocket_origins="same", **options)
    proxied = ("X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example")
    inside = f"localhost:{server.port}"
    for fields, host, status in [
        ((f"Origin: http://{inside}",), inside, 101),
        (("Origin: https://shop.example",), "shop.example", 101),
        ((), inside, 101),
        (("Origin: http://localhost:1",), inside, 403),
        (("Origin: https://evil.example",), "shop.example", 403),
        (("Origin: null",), "null", 403),
        (("Origin: https://shop.example", *proxied), "backend", 101 if trusted else 403),
        (("Origin: http://backend", *proxied), "backend", 403 if trusted else 101),
    ]:
        with server.connect() as connection:
            assert upgrade(connection, *fields, host=host) == status, (fields, host)
            connection.abort()
    server.wait_for_log("403 from 127.0.0.1: an Origin other than the Host, which websocket_origins=same demands")
    with server.connect() as connection:
        # Nothing but WebSockets is concerned.
        plain = request("GET", "/", "Origin: https://evil.example")
        assert connection.request(plain).status == 200


# --- dumps -----------------------------------------------------------------------------------------------------------


def test_a_dump_says_that_a_request_waits_for_a_message_or_a_pong(server: Server) -> None:
    start = len(server.log())
    with Client(server, "/waits") as client, Client(server, "/pings") as pinged:
        ping_of(pinged)
        client.send(text("x"))
        assert client.text() == "x"
        server.signal(12)
        for what, one in (("message", client), ("pong", pinged)):
            address = one.connection.socket.getsockname()
            server.wait_for_log(re.escape(f"WebSocket {what} from {address[0]}:{address[1]}"), start=start)
        client.end()
