"""Requests that run at once share one OS thread and nothing else; deep recursion is an error, not a crash."""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import Any

import pytest

from serving import TIMEOUT, Serve, request

APPLICATION = "isolation_app:app"
DEBUG_BUILD = hasattr(sys, "gettotalrefcount")


@pytest.mark.parametrize(
    "total",
    [200, pytest.param(500, marks=pytest.mark.skipif(DEBUG_BUILD, reason="500 take too long on a debug build"))],
)
def test_requests_at_once_share_one_thread_and_nothing_else(serve: Serve, total: int) -> None:
    server = serve(APPLICATION)
    connections = [server.connect(timeout=4 * TIMEOUT) for _ in range(total)]
    answers: list[dict[str, Any]] = []
    try:
        for number, connection in enumerate(connections):
            connection.send(request("GET", f"/together?{number},{total}"))
        for connection in connections:
            response = connection.read_response()
            assert response.status == 200, server.log()
            answers.append(json.loads(response.body))
    finally:
        for connection in connections:
            connection.close()
    for number, answer in enumerate(answers):
        for key in ("number", "variable", "local", "asyncio", "exception"):
            assert answer[key] == number, (key, answer)
        assert answer["before"] is None
        assert answer["precision"] == number % 50 + 1
        assert answer["depth"] == 100
        assert answer["nothing active"] is True
    assert len({answer["thread"] for answer in answers}) == 1
    assert len({answer["coroutine"] for answer in answers}) == total
    assert server.threads() <= 4, "a thread for each request?"


def test_the_log_of_a_failed_request_is_written_in_its_context(serve: Serve) -> None:
    server = serve(
        """
        import contextvars, logging
        number = contextvars.ContextVar("number", default="none")
        failed = []

        class Kept(logging.Handler):
            def emit(self, record):
                failed.append(f"{record.getMessage()}: {number.get()}")

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/failed":
                start_response("200 OK", [])
                return ["; ".join(failed).encode() + number.get().encode()]
            if not failed:
                logging.getLogger("rmeinheld.error").addHandler(Kept())
            number.set(environ["PATH_INFO"])
            raise ValueError(number.get())
        """
    )
    with server.connect() as connection:
        for path in ("/1", "/2"):
            assert connection.request(request("GET", path)).status == 500
        failed = connection.request(request("GET", "/failed")).body
    assert failed == b"Error handling request GET /1: /1; Error handling request GET /2: /2none"


def test_what_a_request_left_in_a_thread_local_may_wait_when_it_ends(serve: Serve) -> None:
    server = serve(APPLICATION)
    connections = [server.connect(timeout=4 * TIMEOUT) for _ in range(40)]
    for connection in connections:
        connection.send(request("GET", "/keep?40"))
    for connection in connections:
        assert connection.read_response().status == 200
        connection.close()
    # Longer than code may wait that runs where it cannot park.
    with server.connect(timeout=4 * TIMEOUT) as connection:
        connection.send(request("GET", "/end-kept?3.5"))
        assert json.loads(connection.read_response().body)["ended"] > 0
    assert "RuntimeError" not in server.log()


def test_the_exception_of_a_time_limit_may_ask_for_the_response_that_it_interrupts(serve: Serve) -> None:
    server = serve(APPLICATION)
    with server.connect() as slow, server.connect() as other:
        slow.send(request("GET", "/late"))
        server.wait_for_log("Late")
        other.send(request("GET", "/"))
        assert other.read_response().status == 200


def test_a_second_round_finds_nothing_of_the_first(serve: Serve) -> None:
    server = serve(APPLICATION)
    total = 50
    connections = [server.connect() for _ in range(total)]
    try:
        for round_number in range(3):
            for number, connection in enumerate(connections):
                connection.send(request("GET", f"/together?{number},{total * (round_number + 1)}"))
            for number, connection in enumerate(connections):
                answer = json.loads(connection.read_response().body)
                assert (answer["before"], answer["variable"]) == (None, number)
    finally:
        for connection in connections:
            connection.close()


RECURSIONS = {
    "recurse-in-json": "RecursionError",
    "recurse-in-repr": "RecursionError",
    "recurse-in-sorted": "RecursionError",
    "recurse-in-python": "RecursionError",
    "recurse-in-comparison": "RecursionError",
    # The tokenizer counts parentheses by itself.
    "recurse-in-parentheses": "SyntaxError|RecursionError|MemoryError",
}


@pytest.mark.parametrize("stack_size", ["512K", "8M"])
def test_deep_recursion_is_an_error_of_the_request(serve: Serve, stack_size: str) -> None:
    server = serve(APPLICATION, stack_size=stack_size)
    recursions = dict(RECURSIONS)
    if stack_size == "8M":
        # The parser counts levels by itself, too many for 512 KiB: there it ends an OS thread of CPython 3.13 as well.
        recursions["recurse-in-the-parser"] = "RecursionError|MemoryError"
    for path, error in recursions.items():
        for _ in range(2):  # the second time on a stack that was used
            start = len(server.log())
            assert server.get(f"/{path}").status == 500, path
            server.wait_for_log(rf"^({error})\b", start=start)
            assert server.get("/").body == b"hello", path


def test_deep_recursion_of_one_request_spares_the_others(serve: Serve) -> None:
    server = serve(APPLICATION)
    with server.connect() as waiting:
        waiting.send(request("GET", "/together?0,2"))
        for path in RECURSIONS:
            assert server.get(f"/{path}").status == 500
        with server.connect() as other:
            other.send(request("GET", "/together?1,2"))
            assert json.loads(other.read_response().body)["variable"] == 1
        assert json.loads(waiting.read_response().body)["variable"] == 0


@pytest.mark.parametrize("stack_size", ["512K", "8M"])
@pytest.mark.parametrize(
    "path", ["overflow-with-the-interpreter", "overflow-without-the-interpreter", "overflow-after-parking"]
)
def test_an_overflow_of_the_stack_is_reported_and_fatal(serve: Serve, stack_size: str, path: str) -> None:
    server = serve(APPLICATION, stack_size=stack_size)
    with server.connect() as connection:
        connection.send(request("GET", f"/{path}"))
        assert server.wait() in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)
    log = server.log()
    assert re.search("stack overflow", log, re.IGNORECASE), log
    assert 'isolation_app.py", line' in log, log
    assert "overflow_with" in log, log
