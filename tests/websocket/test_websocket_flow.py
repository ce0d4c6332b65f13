"""WebSockets under load and at a stop: clients that never pause, refused handshakes, draining."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from frames import BINARY, CLOSE, FIN, HANDSHAKE, PING, PONG, TEXT, Client, frame, text
from serving import Serve, Server, request, takes

APPLICATION = """
    from rmeinheld.coroutine import Event, sleep

    def app(environ, start_response):
        path, websocket = environ["PATH_INFO"], environ.get("wsgi.websocket")
        if websocket is None or path.startswith("/plain"):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [path.encode()]
        if path == "/echo":
            for message in websocket:
                websocket.send(message)
        elif path == "/slow":  # answers each message after a while, and says how it ended
            for message in websocket:
                sleep(0.01)
                websocket.send(message)
            print("ended with", websocket.close_code, websocket.close_reason, flush=True)
        elif path == "/busy":  # is long about a message
            websocket.send("busy with " + websocket.receive())
            sleep(0.5)
            websocket.send("done")
            websocket.receive()
        elif path == "/never":
            websocket.receive()
            websocket.send("never")
            Event().wait()
        elif path == "/late":  # accepts after a while
            print("waits", flush=True)
            sleep(0.5)
            websocket.send("late")
            while websocket.receive() is not None:
                pass
        return []
    """


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server for all tests that do not stop it."""
    return serve_module(APPLICATION, websocket_close_timeout=1)


# --- clients that never pause ----------------------------------------------------------------------------------------


def test_any_number_of_pings_is_answered_while_the_client_reads(server: Server) -> None:
    count, payload = 20_000, b"x" * 125
    with Client(server, "/echo") as client:
        pings = frame(FIN | PING, payload) * count
        sender = threading.Thread(target=client.send, args=(pings,))
        sender.start()
        answer = struct.pack("!BB", FIN | PONG, len(payload)) + payload
        assert client.connection.read_exactly(count * len(answer)) == answer * count
        sender.join()
        client.end()


@contextmanager
def flooded(server: Server, begin: bytes, flood: bytes) -> Iterator[None]:
    """A client that sends `begin` and then `flood` again and again, and reads the answers."""
    with Client(server, "/echo") as client:
        client.send(begin)
        is_over = threading.Event()

        def send() -> None:
            with suppress(OSError):
                while not is_over.is_set():
                    client.connection.socket.sendall(flood)

        def take() -> None:
            with suppress(OSError):
                while client.connection.socket.recv(1 << 20):
                    pass

        threads = [threading.Thread(target=work) for work in (send, take)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            with suppress(OSError):
                client.connection.socket.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def test_clients_that_ping_and_vanish_free_their_slots(serve: Serve) -> None:
    server = serve(APPLICATION, worker_connections=2)
    for _ in range(2):
        with flooded(server, b"", frame(FIN | PING, b"x" * 125) * 20_000):
            time.sleep(0.3)
    assert server.get("/plain").status == 200


FLOODS = {
    "pongs": (b"", frame(FIN | PONG) * 50_000),
    "empty fragments": (frame(TEXT, b"a"), frame(0) * 50_000),
    "fragments of a byte": (frame(BINARY, b"a"), frame(0, b"x") * 50_000),
    "tiny messages": (b"", frame(FIN | TEXT) * 50_000),
    "pings": (b"", frame(FIN | PING) * 50_000),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_client_that_never_pauses_starves_no_other(serve: Serve, kind: str) -> None:
    server = serve(APPLICATION, websocket_max_message_size=20_000_000)
    times = []
    with flooded(server, *FLOODS[kind]), Client(server, "/echo") as other:
        for number in range(20):
            started = time.monotonic()
            assert server.get("/plain").status == 200
            other.send(text(str(number)))
            assert other.text() == str(number)
            times.append(time.monotonic() - started)
        other.end()
        # Without fairness each round trip took a second or more on an idle machine.
        assert sorted(times)[len(times) // 2] < 0.3, times
        with takes(0, 8):
            server.stop()


# --- handshakes that the application does not accept ------------------------------------------------------------------


def test_a_request_behind_a_handshake_that_is_not_accepted_is_answered(server: Server) -> None:
    with server.connect() as connection:
        behind = request("GET", "/plain-2") + request("GET", "/plain-3")
        connection.send(request("GET", "/plain-1", *HANDSHAKE) + behind)
        assert [connection.read_response().body for _ in range(3)] == [b"/plain-1", b"/plain-2", b"/plain-3"]
        assert connection.request(request("GET", "/plain-4")).body == b"/plain-4"


def test_half_a_request_behind_a_handshake_that_is_not_accepted_is_kept(server: Server) -> None:
    second = request("POST", "/plain-2", body=b"body")
    with server.connect() as connection:
        connection.send(request("GET", "/plain-1", *HANDSHAKE) + second[:20])
        assert connection.read_response().body == b"/plain-1"
        assert connection.request(second[20:]).body == b"/plain-2"


def without(name: str) -> tuple[str, ...]:
    return tuple(field for field in HANDSHAKE if not field.startswith(name))


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("POST", HANDSHAKE),
        ("PUT", (*HANDSHAKE, "Content-Length: 0")),
        ("GET", without("Connection")),
        ("GET", (*without("Connection"), "Connection: keep-alive")),
        ("GET", ("Upgrade: h2c, websocket", "Connection: Upgrade")),
        ("GET", (*without("Sec-WebSocket-Version"), "Upgrade: h2c", "Sec-WebSocket-Version: 8")),
    ],
)
def test_an_upgrade_that_is_not_a_handshake_is_ignored(server: Server, method: str, fields: tuple[str, ...]) -> None:
    # RFC 9110 7.8: a server may ignore Upgrade, and must without `Connection: Upgrade`.
    with server.connect() as connection:
        for _ in range(2):
            response = connection.request(request(method, "/echo", *fields))
            assert (response.status, response.body) == (200, b"/echo")


def test_a_handshake_in_a_list_of_protocols_is_accepted(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/echo", "Upgrade: h2c, websocket", *without("Upgrade")) + text("hello"))
        response, _ = connection.read_head()
        assert response.status == 101
        assert connection.read_exactly(7) == b"\x81\x05hello"


# --- the server stops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 1000])
def test_messages_that_had_arrived_at_a_stop_are_delivered_and_answered(serve: Serve, size: int) -> None:
    # The long messages exceed what is read ahead, so the kernel holds some bytes.
    server = serve(APPLICATION)
    count = 100
    with Client(server, "/slow") as client:
        messages = [f"{number:0{size}}" for number in range(count)]
        client.send(b"".join(text(message) for message in messages))
        assert client.text() == messages[0]
        server.signal(15)
        assert [client.text() for _ in range(count - 1)] == messages[1:]
        client.expect_close_from_server(1001, "the server stops")
    assert server.wait() == 0
    assert "ended with 1001 the server stops" in server.log()


def test_an_answer_in_progress_is_sent_before_the_server_closes(serve: Serve) -> None:
    server = serve(APPLICATION)
    with Client(server, "/busy") as client:
        client.send(text("this"))
        assert client.text() == "busy with this"
        server.signal(15)
        client.send(frame(FIN | PING, b"and this"))
        assert client.frame() == (FIN | PONG, b"and this")
        assert client.text() == "done"
        client.expect_close_from_server(1001, "the server stops")
    assert server.wait() == 0


def test_a_stop_does_not_wait_for_an_answer_longer_than_close_timeout(serve: Serve) -> None:
    server = serve(APPLICATION, websocket_close_timeout=0.5, graceful_timeout=20)
    with Client(server, "/never") as client:
        client.send(text("this"))
        assert client.text() == "never"
        server.signal(15)
        with takes(0.3, 5):
            client.expect_close_from_server(1001, "the server stops")
        server.kill()


def test_a_websocket_accepted_during_a_stop_is_soon_closed(serve: Serve) -> None:
    server = serve(APPLICATION, graceful_timeout=20)
    with server.connect() as connection:
        connection.send(request("GET", "/late", *HANDSHAKE))
        server.wait_for_log("waits")
        server.signal(15)
        assert connection.read_head()[0].status == 101
        assert connection.read_exactly(6) == b"\x81\x04late"
        assert connection.read_exactly(4) == struct.pack("!BBH", FIN | CLOSE, 18, 1001)
        connection.close()
    assert server.wait() == 0


def test_a_client_that_keeps_sending_does_not_hold_up_a_stop(serve: Serve) -> None:
    # This client does not answer the close either.
    server = serve(APPLICATION, graceful_timeout=20)
    with flooded(server, b"", text("x" * 1000) * 100):
        server.get("/plain")
        with takes(0, 8):
            server.stop()


# --- at worker_connections --------------------------------------------------------------------------------------------


def test_the_log_says_once_that_clients_wait_for_worker_connections(serve: Serve) -> None:
    server = serve(APPLICATION, worker_connections=2)
    line = "2 requests are in progress, as many as worker_connections allows"
    for _ in range(2):
        with Client(server, "/echo") as one, Client(server, "/echo") as other, server.connect() as waiting:
            waiting.send(request("GET", "/plain"))
            server.wait_for_log(line)
            assert not waiting.has_input(0.2)
            one.end()
            assert waiting.read_response().body == b"/plain"
            other.end()
    assert server.log().count(line) == 1
