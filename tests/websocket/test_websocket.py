"""WebSockets on the wire and in the application: the handshake, messages, closing and errors."""

from __future__ import annotations

import ast
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from frames import BINARY, CLOSE, FIN, HANDSHAKE, PING, PONG, TEXT, Client, close, frame, text
from serving import RunScript, Serve, Server, request

APPLICATION = "websocket_app:app"
LIMIT = 100_000


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server that all tests share, with a low limit on messages."""
    return serve_module(APPLICATION, websocket_max_message_size=LIMIT, websocket_close_timeout=1, log_level="debug")


def release(server: Server) -> None:
    """Release the handlers that wait for it."""
    with server.connect() as connection:
        assert connection.request(request()).body == b"no websocket"


def noted(server: Server, until: Callable[[list[Any]], bool] = bool) -> list[Any]:
    """Return the notes of handlers since the last call. A note may come a moment after its client saw the end."""
    notes: list[Any] = []
    deadline = time.monotonic() + 10
    while not until(notes):
        assert time.monotonic() < deadline, notes
        with Client(server, "/note") as client:
            notes += ast.literal_eval(client.text())
            client.expect_close_after_answer()
    return notes


# --- the handshake ---------------------------------------------------------------------------------------------------


def test_a_message_comes_back(server: Server) -> None:
    with Client(server, "/echo") as client:
        client.send(text("h\u00e9llo") + frame(FIN | BINARY, b"\x00\xff") + frame(FIN | TEXT))
        assert client.text() == "h\u00e9llo"
        assert client.frame() == (FIN | BINARY, b"\x00\xff")
        assert client.text() == ""
        client.end()


def test_frames_sent_with_the_handshake_are_not_lost(server: Server) -> None:
    bird = text("bird")
    with Client(server, "/echo", early=text("early") + bird[:3]) as client:
        assert client.text() == "early"
        client.send(bird[3:])
        assert client.text() == "bird"
        client.end()


def without(name: str) -> tuple[str, ...]:
    return tuple(field for field in HANDSHAKE if not field.startswith(name))


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", without("Sec-WebSocket-Key"), 400),
        ("GET", (*without("Sec-WebSocket-Key"), "Sec-WebSocket-Key: c2hvcnQ="), 400),
        ("GET", (*HANDSHAKE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("GET", without("Sec-WebSocket-Version"), 400),
        ("GET", (*without("Sec-WebSocket-Version"), "Sec-WebSocket-Version: 8"), 426),
        ("GET", (*HANDSHAKE, "Content-Length: 1"), 400),
        ("GET", (*HANDSHAKE, "Sec-WebSocket-Protocol: a, two words"), 400),
        ("GET", (*HANDSHAKE, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a/b"), 400),
        ("GET", (*HANDSHAKE, "Sec-WebSocket-Protocol: caf\u00e9"), 400),
        ("GET", without("Upgrade"), 200),
        ("GET", (*without("Upgrade"), "Upgrade: h2c"), 200),
    ],
)
def test_a_handshake_that_breaks_a_rule_gets_an_error(
    server: Server, method: str, fields: tuple[str, ...], status: int
) -> None:
    with server.connect() as connection:
        response = connection.request(request(method, "/echo", *fields))
        assert response.status == status
        assert response.header("Sec-WebSocket-Version") == ("13" if status == 426 else None)
        assert response.header("Upgrade") == ("websocket" if status == 426 else None)
        # RFC 9110 7.8: a sender of Upgrade also sends the connection option.
        assert ("upgrade" in response.all("Connection")) == (status == 426)


def test_a_handshake_in_http_1_0_is_an_ordinary_request(server: Server) -> None:
    with server.connect() as connection:
        assert connection.request(request("GET", "/echo", *HANDSHAKE, version="1.0")).status == 200


def test_only_pages_of_the_listed_origins_may_connect(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_origins="https://shop.example")
    for origin, status in [("https://shop.example", 101), ("https://evil.example", 403), ("null", 403), (None, 101)]:
        with server.connect() as connection:
            fields = [f"Origin: {origin}"] if origin else []
            connection.send(request("GET", "/echo", *HANDSHAKE, *fields))
            response, _ = connection.read_head()
            assert response.status == status, origin
            connection.abort()
    server.wait_for_log("403 from 127.0.0.1: an Origin that is not in websocket_origins")


def test_the_application_may_answer_a_handshake_with_an_ordinary_response(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(2):  # and the connection can be used again
            response = connection.request(request("GET", "/answered", *HANDSHAKE))
            assert (response.status, response.body) == (401, b"who are you?")


def test_the_application_chooses_a_subprotocol_and_headers(server: Server) -> None:
    with Client(server, "/subprotocol", "Sec-WebSocket-Protocol: soap, chat") as client:
        assert (client.headers["Sec-WebSocket-Protocol"], client.headers["X-Room"]) == ("chat", "1")
        assert client.text() == "('chat', 'chat')"
    with Client(server, "/echo", "Sec-WebSocket-Protocol: soap, chat") as client:
        assert "Sec-WebSocket-Protocol" not in client.headers


def test_empty_members_of_the_list_of_subprotocols_do_not_count(server: Server) -> None:
    # RFC 9110 5.6.1.2.
    with Client(server, "/subprotocol", "Sec-WebSocket-Protocol: , soap,, chat ,") as client:
        assert client.text() == "('chat', 'chat')"
    with Client(server, "/echo", "Sec-WebSocket-Protocol: ,", "Sec-WebSocket-Protocol:") as client:
        client.end()


def test_the_log_names_the_field_that_breaks_a_rule(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        assert connection.request(request("GET", "/echo", *HANDSHAKE, "Sec-WebSocket-Protocol: a;b")).status == 400
    server.wait_for_log("400 from 127.0.0.1: .*Sec-WebSocket-Protocol", start=start)


def test_the_websocket_has_the_attributes_of_its_request(server: Server) -> None:
    with Client(server, "/attributes?x=1", "Origin: http://a.example", "Sec-WebSocket-Protocol: a,b") as client:
        expected = ["/attributes", "http://a.example", ("a", "b"), 13, (False, None, None)]
        assert ast.literal_eval(client.text()) == expected
        client.send(close(3456, b"bye"))
        client.expect_close(3456)
    assert noted(server) == [(True, 3456, "bye")]


def test_mistakes_of_the_application_raise_errors_and_leave_the_connection_usable(server: Server) -> None:
    with Client(server, "/wrong") as client:
        expected = "ValueError ValueError ValueError ValueError TypeError TypeError UnicodeEncodeError ValueError "
        expected += "ValueError ValueError ValueError ValueError ValueError TimeoutError RuntimeError"
        assert client.text() == expected


# --- control frames and closing --------------------------------------------------------------------------------------


def test_pings_are_answered_while_the_application_does_not_receive(server: Server) -> None:
    with Client(server, "/silent") as client:
        client.send(frame(FIN | PING, b"1") + frame(FIN | PONG, b"unasked") + frame(FIN | PING, b"2"))
        assert [client.frame(), client.frame()] == [(FIN | PONG, b"1"), (FIN | PONG, b"2")]
        # The close is answered too, long before the application looks.
        client.end()
    release(server)


def test_the_application_can_ping(server: Server) -> None:
    with Client(server, "/pings") as client:
        assert client.frame().first == FIN | PING
        assert client.frame() == (FIN | PING, b"payload")
        client.send(frame(FIN | PONG, b"payload") + text("still here"))
        assert client.text() == "still here"
        client.end()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [(b"", b""), (struct.pack("!H", 1001), struct.pack("!H", 1001)), (b"\x0f\xa0later", b"\x0f\xa0")],
)
def test_a_close_is_answered_with_its_code(server: Server, sent: bytes, answered: bytes) -> None:
    with Client(server, "/echo") as client:
        client.send(frame(FIN | CLOSE, sent))
        assert client.frame() == (FIN | CLOSE, answered)
        client.connection.expect_end()


def test_a_close_in_another_coroutine_wakes_the_receiver(server: Server) -> None:
    with Client(server, "/closes") as client:
        assert client.frame() == (FIN | CLOSE, struct.pack("!H", 4000) + b"enough")
        client.send(text("crossing") + close(4000))
        client.connection.expect_end()
    assert noted(server) == [(4000, "enough", True)]


def test_a_client_that_does_not_answer_a_close_is_disconnected(server: Server) -> None:
    with Client(server, "/closes") as client:
        assert client.frame().first == FIN | CLOSE
        started = time.monotonic()
        try:
            client.connection.expect_end()
        except ConnectionResetError:
            pass
        assert 0.5 < time.monotonic() - started < 5
    assert len(noted(server)) == 1


def test_closing_does_not_wait_for_the_close_timeout_where_much_is_unread(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_close_timeout=0)
    with Client(server, "/silent") as client:
        # This is more than may be left unread, so the close is not read until the application returns.
        client.send(frame(FIN | PING) + text("x" * 1000) * 100 + close())
        assert client.frame() == (FIN | PONG, b"")
        release(server)
        client.expect_close(1000)


def test_an_error_of_the_application_closes_with_1011_and_is_logged(server: Server) -> None:
    start = len(server.log())
    with Client(server, "/raises") as client:
        assert client.text() == "before"
        assert client.frame() == (FIN | CLOSE, struct.pack("!H", 1011))
        client.send(close(1011))
        client.connection.expect_end()
    server.wait_for_log("Error handling request GET /raises", start=start)
    server.wait_for_log("LookupError: the application's own fault", start=start)


@pytest.mark.parametrize(("target", "code"), [("/answered_after", 1000), ("/failed_after", 1011)])
def test_a_response_after_a_websocket_is_not_sent(server: Server, target: str, code: int) -> None:
    with Client(server, target) as client:
        assert client.text() == "hello"
        if code == 1000:
            assert client.text() == "the connection speaks another protocol than HTTP now"
        assert client.frame() == (FIN | CLOSE, struct.pack("!H", code))
        client.send(close(code))
        client.connection.expect_end()


def test_a_generator_may_serve_a_websocket(server: Server) -> None:
    with Client(server, "/generated") as client:
        client.send(text("a"))
        assert client.text() == "a"
        client.end()


# --- violations ------------------------------------------------------------------------------------------------------

VIOLATIONS = {
    "a reserved bit": (1002, frame(0xC1, b"a")),
    "a reserved opcode": (1002, frame(FIN | 0x3, b"a")),
    "a reserved control opcode": (1002, frame(FIN | 0xB)),
    "a frame without a mask": (1002, frame(FIN | TEXT, b"a", masked=False)),
    "a control frame in fragments": (1002, frame(PING, b"a")),
    "a long control frame": (1002, frame(FIN | PING, bytes(126))),
    "a length in more bytes than it needs": (1002, bytes([FIN | TEXT, 0x80 | 126, 0, 125]) + bytes(129)),
    "a continuation of nothing": (1002, frame(FIN, b"a")),
    "a message in a message": (1002, frame(TEXT, b"a") + text("b")),
    "half a close code": (1002, frame(FIN | CLOSE, b"\x03")),
    "a close code that is never sent": (1002, close(1006)),
    "a close reason that is not UTF-8": (1007, close(1000, b"\xff")),
    "text that is not UTF-8": (1007, frame(FIN | TEXT, b"\xc3(")),
    "text that ends within a character": (1007, frame(FIN | TEXT, b"\xc3")),
    "wrong UTF-8 in a frame that is not complete": (1007, frame(FIN | TEXT, b"a\xf5", length=1000)),
    "a frame over the limit, of which nothing has come": (1009, frame(FIN | BINARY, length=LIMIT + 1)),
    "a frame of 2^63 bytes": (1009, frame(FIN | BINARY, length=2**63)),
    "a message that grows over the limit": (1009, frame(BINARY, bytes(60_000)) + frame(0, length=60_000)),
}


@pytest.mark.parametrize(("code", "data"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_closes_with_its_code_and_logs_one_line(server: Server, code: int, data: bytes) -> None:
    start = len(server.log())
    with Client(server, "/echo") as client:
        client.send(data)
        client.expect_close(code)
    server.wait_for_log(f"DEBUG.* A WebSocket is closed with {code}: ", start=start)


def test_messages_before_a_violation_may_still_be_answered(server: Server) -> None:
    with Client(server, "/echo") as client:
        client.send(text("one") + text("two") + frame(0xF1, b"bad"))
        assert [client.text(), client.text()] == ["one", "two"]
        client.expect_close(1002)


def test_the_largest_message_passes_in_fragments_of_any_size(server: Server) -> None:
    with Client(server, "/echo") as client:
        payload = bytes(range(256)) * (LIMIT // 256)
        client.send(frame(FIN | BINARY, payload))
        assert client.frame() == (FIN | BINARY, payload)
        pieces = [frame(0, payload[at : at + 1000]) for at in range(1000, len(payload), 1000)]
        client.send(frame(BINARY, payload[:1000]) + b"".join(pieces) + frame(FIN))
        assert client.frame() == (FIN | BINARY, payload)
        client.connection.send_slowly(frame(FIN | TEXT, "\u20ac".encode() * 20))
        assert client.text() == "\u20ac" * 20
        client.end()


def test_endless_messages_take_no_memory_beyond_the_limit(serve: Serve) -> None:
    server = serve(
        APPLICATION, websocket_max_message_size=1_000_000, websocket_close_timeout=1, websocket_ping_interval=0
    )
    clients = [Client(server, "/echo") for _ in range(20)]
    before = server.resident_kib()
    for client in clients:
        client.send(frame(TEXT, b"a" * 990_000))
        # A message may have any number of empty fragments.
        client.send(frame(0) * 1000)
        client.send(frame(FIN | PING))
        assert client.frame().first == FIN | PONG
    # A buffer that grows by doubling would take twice the limit for each.
    assert server.resident_kib() - before < 20 * 2 * 1000 + 4000
    for client in clients:
        client.send(frame(0, b"a" * 20_000))
        client.expect_close(1009)
        client.connection.close()


# --- many at once ----------------------------------------------------------------------------------------------------


def test_messages_of_coroutines_and_threads_never_mix(server: Server) -> None:
    with Client(server, "/many") as client:
        counts = [0] * 10
        while (message := client.text()) != "done":
            number, count, rest = message.split()
            assert rest == number * 5000
            assert int(count) == counts[int(number)]
            counts[int(number)] += 1
        assert counts == [100] * 10
        assert client.frame().first == FIN | CLOSE


def test_a_client_that_reads_nothing_holds_up_its_senders_only(server: Server) -> None:
    with Client(server, "/flood") as client:
        for number in range(3):
            client.send(text(str(number)))
        client.send(frame(FIN | CLOSE))
        # All messages arrive, then the close.
        count = 0
        while (received := client.frame()).first == FIN | BINARY:
            assert received.payload == bytes(10_000)
            count += 1
        assert received.first == FIN | CLOSE
        client.connection.expect_end()
    # The sender may see the close before the receiver has taken the last message.
    notes = noted(server, lambda notes: len(notes) == 4)
    assert [note[0] for note in notes if isinstance(note, tuple)] == ["0", "1", "2"]
    assert 1005 in notes
    assert count > 3


def test_the_queue_for_a_slow_client_is_bounded(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_max_queue_size=50_000, send_timeout=1)
    with Client(server, "/flood") as client:
        before = server.resident_kib()
        client.send(text("go"))
        noted(server, lambda notes: 1006 in notes)
        assert server.resident_kib() - before < 5000


def test_a_client_that_sends_too_fast_has_to_wait(server: Server) -> None:
    with Client(server, "/slow") as client:
        before = server.resident_kib()
        client.connection.socket.settimeout(0.3)
        message, sent = text("x" * 50_000), 0
        with pytest.raises(TimeoutError):
            while sent < 2000:
                client.connection.socket.sendall(message)
                sent += 1
        assert 0 < sent < 2000
        assert server.resident_kib() - before < 5000
        client.connection.abort()
    release(server)


def test_a_receive_ends_at_its_timeout(server: Server) -> None:
    with Client(server, "/impatient") as client:
        assert [client.text(), client.text()] == ["first", "second"]
        client.send(text("third"))
        assert client.text() == "third"
        client.end()


def test_an_os_thread_may_serve_a_websocket(server: Server) -> None:
    with Client(server, "/threaded") as client:
        for number in range(20):
            client.send(text(f"{number}"))
        assert [client.text() for _ in range(20)] == [f"{number}" for number in range(20)]
        client.end()
    assert noted(server) == [1000]


# --- clients that vanish ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["reset", "end of the stream"])
def test_a_client_that_vanishes_is_noticed(server: Server, ending: str) -> None:
    with Client(server, "/attributes") as client:
        client.text()
        if ending == "reset":
            client.connection.abort()
        else:
            client.connection.socket.shutdown(socket.SHUT_WR)
            client.connection.expect_end()
    ((closed, code, reason),) = noted(server)
    assert (closed, code) == (True, 1006) and reason


def test_a_silent_client_is_pinged_and_disconnected(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_ping_interval=0.2, websocket_ping_timeout=0.4, log_level="debug")
    with Client(server, "/echo") as answering, Client(server, "/echo") as silent:
        payloads = set()
        for _ in range(3):
            ping = answering.frame()
            assert ping.first == FIN | PING
            payloads.add(ping.payload)
            answering.send(frame(FIN | PONG, ping.payload))
        assert len(payloads) == 3
        assert silent.frame().first == FIN | PING
        silent.connection.expect_end()
        answering.send(text("still here"))
        while (received := answering.frame()).first == FIN | PING:
            answering.send(frame(FIN | PONG))
        assert received == (FIN | TEXT, b"still here")
    server.wait_for_log(r"client is gone: it did not answer a ping within websocket_ping_timeout \(0\.4 s\)")


def test_a_client_whose_pong_is_not_read_yet_stays_connected(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_ping_interval=0.1, websocket_ping_timeout=0.2)
    with Client(server, "/slow") as client:
        # This is more than may be left unread, so the pong behind it has to wait for the application.
        client.send(text("x" * 1000) * 100)
        assert client.frame().first == FIN | PING
        client.send(frame(FIN | PONG) + text("end"))
        assert not client.connection.has_input(1)
        release(server)
        while (received := client.frame()).first == FIN | PING:
            client.send(frame(FIN | PONG))
        assert received == (FIN | TEXT, b"100003")
        client.expect_close_after_answer()


def test_a_client_that_reads_a_large_message_slowly_stays_connected(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_ping_interval=0.2, websocket_ping_timeout=0.8)
    size = 6_000_000
    with Client(server, f"/large?{size}", receive_buffer=16 * 1024) as client:
        started = time.monotonic()
        # The ping waits behind the message for longer than the limit, first in the server and then in the kernel.
        while (taken := len(client.connection.buffer)) < size:
            assert client.connection.receive(), taken
            time.sleep(max(0.0, started + 2 * taken / size - time.monotonic()))
        assert len(client.frame().payload) == size
        assert client.frame().first == FIN | PING
        client.send(frame(FIN | PONG) + text("still here"))
        while (received := client.frame()).first == FIN | PING:
            client.send(frame(FIN | PONG))
        assert received == (FIN | TEXT, b"still here")
        client.end()


def test_a_client_that_reads_nothing_of_a_large_message_is_disconnected(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_ping_interval=0.1, websocket_ping_timeout=0.2, log_level="debug")
    with Client(server, "/large?12000000", receive_buffer=16 * 1024):
        server.wait_for_log("A WebSocket's client is gone: it did not answer a ping within websocket_ping_timeout")


def test_a_stop_of_the_server_closes_with_1001(serve: Serve) -> None:
    server = serve(APPLICATION, graceful_timeout=8)
    with Client(server, "/echo") as client, Client(server, "/silent") as silent:
        started = time.monotonic()
        server.signal(15)
        for one in (client, silent):
            assert one.frame() == (FIN | CLOSE, struct.pack("!H", 1001) + b"the server stops")
            one.send(close(1001))
        client.connection.expect_end()
        silent.connection.abort()
        # The handler that waits for something else ends only after the grace period.
        assert time.monotonic() - started < 5
        server.kill()


def test_a_stopping_server_reads_the_close_behind_unread_messages(serve: Serve) -> None:
    server = serve(APPLICATION, graceful_timeout=20, websocket_close_timeout=1)
    with Client(server, "/silent") as client:
        client.send(frame(FIN | PING) + text("x" * 1000) * 100 + close())
        assert client.frame() == (FIN | PONG, b"")
        # The application could still take and answer messages that have arrived; this one does not.
        server.signal(15)
        assert client.frame() == (FIN | CLOSE, struct.pack("!H", 1001) + b"the server stops")
        client.connection.expect_end()
        server.kill()


# --- libraries that bring their own protocol -------------------------------------------------------------------------


def test_a_library_may_take_the_connection_over(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/taken", *HANDSHAKE))
        response, _ = connection.read_head()
        assert (response.status, response.reason) == (101, "Mine")
        connection.send(b"raw bytes")
        assert connection.read_exactly(9) == b"raw bytes"
        connection.finish_sending()
        connection.expect_end()
    assert "Error" not in server.log()[start:]


def test_a_connection_taken_over_leaves_no_socket_open(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "always::ResourceWarning")
    server = serve(APPLICATION)
    with server.connect() as connection:
        connection.send(request("GET", "/taken", *HANDSHAKE))
        connection.read_head()
        connection.finish_sending()
        connection.expect_end()
    server.stop()
    assert "ResourceWarning" not in server.log()


def test_bytes_behind_the_handshake_go_to_the_library(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/taken", *HANDSHAKE) + b"early bytes")
        connection.read_head()
        connection.send(b"; late")
        connection.finish_sending()
        assert connection.read_to_end() == b"early bytes; late"


def test_stop_iteration_sends_nothing_and_logs_nothing(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/given_up", *HANDSHAKE))
        connection.expect_end()
    assert server.log()[start:].strip() == ""


# --- Meinheld's names ------------------------------------------------------------------------------------------------


def test_the_middleware_and_the_decorator_of_meinheld_work(serve: Serve, script: RunScript) -> None:
    body = """
from rmeinheld.meinheld.middleware import WebSocketMiddleware
from rmeinheld.websocket import WebSocketWSGI

@WebSocketWSGI
def handler(ws):
    \"\"\"Documented.\"\"\"
    while (message := ws.wait()) is not None:
        ws.send(message)

assert handler.__doc__ == "Documented."
answers = []
def start_response(status, headers, exc_info=None):
    answers.append(status)
for app in (handler, WebSocketMiddleware(handler)):
    assert app({}, start_response) == [b"This address is for WebSockets.\\n"]
assert answers == ["400 Bad Request"] * 2

class Socket:
    sent, accepted, messages = [], 0, ["a", b"b", None]
    def accept(self): self.accepted += 1
    def wait(self): return self.messages.pop(0)
    def send(self, message): self.sent.append(message)
socket = Socket()
assert WebSocketMiddleware(handler)({"wsgi.websocket": socket}, start_response) == []
assert socket.sent == ["a", b"b"] and socket.accepted == 1

class Result(list):
    closed = 0
    def close(self): self.closed += 1
result = Result()
assert WebSocketMiddleware(lambda environ, start_response: result)({"wsgi.websocket": socket}, start_response) == []
assert result.closed == 1
# Programs for Meinheld may return such a result.
assert WebSocketMiddleware(lambda environ, start_response: None)({"wsgi.websocket": socket}, start_response) == []
print("well")
"""
    assert script(body) == "well\n"


@pytest.mark.parametrize("way", ["refused", "failed", "ignored", "given up", "taken over", "accepted"])
def test_nothing_of_a_handshake_outlives_its_request(serve: Serve, way: str) -> None:
    body = """
import gc
import weakref

alive = []

class Marker:
    pass

def app(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        gc.collect()
        start_response("200 OK", [])
        return [b"%d" % sum(reference() is not None for reference in alive)]
    environ["marker"] = Marker()
    alive.extend([weakref.ref(websocket), weakref.ref(environ["marker"])])
    match environ["PATH_INFO"]:
        case "/refused":
            start_response("401 Unauthorized", [])
        case "/failed":
            raise ValueError("on purpose")
        case "/ignored":
            start_response("200 OK", [])
        case "/given_up":
            raise StopIteration
        case "/taken_over":
            environ["gunicorn.socket"].sendall(b"HTTP/1.1 101 Mine\\r\\n\\r\\n")
        case "/accepted":
            websocket.accept()
    return []
"""
    server = serve(body)
    for _ in range(3):
        with server.connect() as connection:
            connection.send(request("GET", f"/{way.replace(' ', '_')}", *HANDSHAKE, "Connection: close"))
            connection.send(close() if way == "accepted" else b"")
            connection.read_to_end()
    # A request ends a moment after its client saw the end.
    deadline = time.monotonic() + 10
    while (count := server.get("/").body) != b"0":
        assert time.monotonic() < deadline, count


def test_an_idle_websocket_is_cheap(serve: Serve) -> None:
    server = serve(APPLICATION, worker_connections=2000)
    clients = [Client(server, "/echo") for _ in range(100)]
    before = server.resident_kib()
    clients += [Client(server, "/echo") for _ in range(400)]
    for client in clients:
        client.send(text("hello"))
        assert client.text() == "hello"
    per_client = (server.resident_kib() - before) / 400
    # It is 24 KiB in a release build on CPython 3.13. The part of the interpreter differs between versions.
    assert per_client < 40, per_client
    for client in clients:
        client.connection.abort()
