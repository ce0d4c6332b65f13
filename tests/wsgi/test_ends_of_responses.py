"""Responses that end with the server or with their client, and the waits and log lines of a stop."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import pytest

from serving import TIMEOUT, Connection, Serve, Server, request, takes


def open_response(connection: Connection, server: Server, path: str, first: bytes) -> None:
    """Ask for `path` and read up to the end of its first item."""
    connection.send(request("GET", path))
    connection.read_head()
    connection.read_until(first)


def rest_of_chunks(connection: Connection) -> bytes:
    """The rest of a chunked body, from the end of a chunk's data."""
    connection.read_until(b"\r\n")
    return b"".join(connection.read_chunks())


def wait_until_it_stops(server: Server) -> None:
    """Wait until the server accepts no more connections."""
    deadline = time.monotonic() + TIMEOUT
    with suppress(OSError):
        while time.monotonic() < deadline:
            server.connect().close()
            time.sleep(0.01)


# --- the server's stop -----------------------------------------------------------------------------------------------


def test_a_stream_of_events_ends_with_the_server(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as connection:
        open_response(connection, server, "/events", b"data: first\n\n")
        with takes(0, 10):
            server.signal(signal.SIGTERM)
            assert rest_of_chunks(connection) == b""
            connection.expect_end()
            assert server.wait() == 0
    assert "raised GeneratorExit('the server stops')\ncleaned up\nafter a wait\n" in server.log()
    assert "[INFO] GET /events was ended: the server stops" in server.log()
    assert "Traceback" not in server.log()


def test_a_stream_may_say_goodbye(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as connection:
        open_response(connection, server, "/goodbye", b"data: first\n\n")
        server.signal(signal.SIGTERM)
        assert rest_of_chunks(connection) == b"data: goodbye\n\n"
        assert server.wait() == 0


def test_a_stream_that_is_being_sent_ends_after_an_item(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect(receive_buffer=4096) as connection:
        open_response(connection, server, "/ticks", b"data: tick\n\n")
        # The socket is full now.
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        ticks = rest_of_chunks(connection)
        assert ticks.replace(b"data: tick\n\n", b"") == b""
        assert server.wait() == 0
    assert "closed\n" in server.log()
    assert "Traceback" not in server.log()


def test_a_stream_that_is_written_ends_with_the_server(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as connection:
        open_response(connection, server, "/written", b"data: first\n\n")
        server.signal(signal.SIGTERM)
        assert rest_of_chunks(connection) == b""
        assert server.wait() == 0


def test_a_response_whose_application_has_asked_ends_with_the_server_and_others_go_on(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as asked, server.connect() as export, server.connect() as elsewhere:
        open_response(asked, server, "/asked", b"False")
        open_response(export, server, "/export", b"part ")
        open_response(elsewhere, server, "/asked_elsewhere", b"(False, False)")
        server.signal(signal.SIGTERM)
        assert rest_of_chunks(asked) == b""
        assert rest_of_chunks(export) == b"part part part "
        assert rest_of_chunks(elsewhere) == b" whole"
        assert server.wait() == 0


def test_a_request_that_has_asked_and_not_answered_gets_a_503(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as connection:
        connection.send(request("GET", "/asked_before"))
        server.wait_for_log("waiting")
        server.signal(signal.SIGTERM)
        assert connection.read_response().status == 503
        assert server.wait() == 0


def test_an_application_that_asked_about_the_stop_ends_as_it_likes(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as connection:
        open_response(connection, server, "/asked_late", b"started")
        server.signal(signal.SIGTERM)
        assert rest_of_chunks(connection) == b"True goodbye at length"
        assert server.wait() == 0


def test_a_stop_says_whom_it_waits_for_and_a_second_interrupt_ends_it(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=77)
    with server.connect() as first, server.connect() as second:
        first.send(request("GET", "/slow?first\x1b".replace("\x1b", "%1b")))
        server.wait_for_log("waiting")
        time.sleep(1.1)
        second.send(request("GET", "/slow?second"))
        server.wait_for_log("waiting\n(.*\n)*waiting")
        server.signal(signal.SIGINT)
        server.wait_for_log(
            r"waiting for 2 requests, oldest [1-9] s: GET /slow\?first%1b; press Ctrl-C again to stop now$"
        )
        with takes(0, 8):
            server.signal(signal.SIGINT)
            assert server.wait() == 0
        assert first.read_response().status == second.read_response().status == 503


def test_a_stop_by_a_signal_logs_whom_it_waits_for(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=77)
    with server.connect() as connection:
        connection.send(request("GET", "/slow"))
        server.wait_for_log("waiting")
        server.signal(signal.SIGTERM)
        server.wait_for_log(
            r"\[WARNING\] The server stops and waits for 1 request, the oldest for [1-9] s: GET /slow\. "
            r"In 7[0-9] s \(graceful_timeout is 77 s\) what is left is ended; Ctrl-C \(again\) or SIGQUIT ends it now"
        )
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0


def test_a_stop_that_is_quick_says_nothing(serve: Serve) -> None:
    server = serve("ends_app:app")
    with server.connect() as connection:
        open_response(connection, server, "/events", b"data: first\n\n")
        server.stop()
    assert "waits for" not in server.log()


@pytest.mark.parametrize(("number", "graceful_timeout"), [(signal.SIGTERM, 1), (signal.SIGINT, 60)])
def test_half_a_head_has_the_grace_period_or_a_second_and_gets_no_answer(
    serve: Serve, number: int, graceful_timeout: float
) -> None:
    server = serve("ends_app:app", graceful_timeout=graceful_timeout)
    with server.connect() as half, server.connect() as new:
        half.send(b"GET / HTTP/1.1\r\nHost: ")
        assert server.get("/hello").body
        with takes(0.7, 8):
            server.signal(number)
            new.expect_end()
            half.expect_end()
            assert server.wait() == 0


def test_half_a_head_has_no_longer_than_client_header_timeout_at_a_stop(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, client_header_timeout=1)
    with server.connect() as half:
        half.send(b"GET / HTTP/1.1\r\nHost: ")
        assert server.get("/hello").body
        with takes(0.2, 8):
            server.signal(signal.SIGTERM)
            assert half.read_response().status == 408
            assert server.wait() == 0


def test_half_a_head_that_is_completed_in_time_is_answered(serve: Serve) -> None:
    server = serve("ends_app:app", graceful_timeout=60, keep_alive=1)
    with server.connect() as connection:
        connection.send(b"GET /export HTTP/1.1\r\nHost: ")
        server.signal(signal.SIGTERM)
        wait_until_it_stops(server)
        connection.send(b"test\r\n\r\n")
        response = connection.read_response()
        assert (response.body, response.ends_connection) == (b"part part part part ", True)
        assert server.wait() == 0


# --- the client's end ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server that waits a second for clients that do not read."""
    return serve_module("ends_app:app", send_timeout=1)


def test_empty_items_end_when_the_client_has_reset_its_connection(server: Server) -> None:
    start = len(server.log())
    connection = server.connect()
    connection.send(request("GET", "/empty"))
    server.wait_for_log("started", start=start)
    connection.abort()
    server.wait_for_log("ended", start=start)


def test_empty_writes_end_when_the_client_has_reset_its_connection(server: Server) -> None:
    start = len(server.log())
    connection = server.connect()
    connection.send(request("GET", "/empty_written"))
    server.wait_for_log("started", start=start)
    connection.abort()
    server.wait_for_log("ended by ConnectionResetError", start=start)


def test_empty_items_end_after_the_send_timeout_when_the_client_has_ended_its_side(server: Server) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/empty"))
        server.wait_for_log("started", start=start)
        connection.finish_sending()
        with takes(0.8, 10):
            server.wait_for_log("ended", start=start)


def test_a_client_that_has_ended_its_side_gets_what_comes_in_time(server: Server) -> None:
    with server.connect() as connection:
        connection.send(request("GET", "/empty?0.5"))
        connection.finish_sending()
        assert connection.read_response().body == b"late"


def test_a_client_that_has_ended_nothing_is_waited_for(server: Server) -> None:
    with server.connect() as connection:
        assert connection.request(request("GET", "/empty?1.5")).body == b"late"


@pytest.mark.parametrize("how", ["reset", "half"])
def test_an_application_can_ask_whether_its_client_is_gone(server: Server, how: str) -> None:
    start = len(server.log())
    with server.connect() as connection:
        connection.send(request("GET", "/disconnected"))
        server.wait_for_log("gone False False", start=start)
        if how == "reset":
            connection.abort()
        else:
            connection.finish_sending()
        server.wait_for_log("gone True True", start=start)
        if how == "half":
            assert connection.read_response().body == b"still there"
    # After the connection.
    server.wait_for_log("later True", start=start)
