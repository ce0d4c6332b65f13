"""Responses that end with the server or with their client."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rmeinheld.coroutine import offload, sleep, spawn

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

EVENTS = [("Content-Type", "Text/Event-Stream; charset=utf-8")]
PLAIN = [("Content-Type", "text/plain")]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def events(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", EVENTS)
    try:
        yield b"data: first\n\n"
        sleep(1000)
    except BaseException as error:
        say(f"raised {error!r}")
        raise
    finally:
        say("cleaned up")
        sleep(0.05)
        say("after a wait")


def goodbye(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", EVENTS)
    yield b"data: first\n\n"
    try:
        sleep(1000)
    except GeneratorExit:
        yield b"data: goodbye\n\n"


def ticks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", EVENTS)
    try:
        while True:
            yield b"data: tick\n\n"
            sleep(0)
    except GeneratorExit:
        say("closed")
        raise


def written(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", EVENTS)
    write(b"data: first\n\n")
    sleep(1000)
    return []


def asked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    yield repr(environ["rmeinheld.stopping"]()).encode()
    sleep(1000)


def asked_before(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    stopping: Callable[[], bool] = environ["rmeinheld.stopping"]
    stopping()
    say("waiting")
    sleep(1000)
    return []


def asked_elsewhere(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Asks in a coroutine and in a thread apart from the request: the answer does not concern the request."""
    start_response("200 OK", PLAIN)
    stopping: Callable[[], bool] = environ["rmeinheld.stopping"]
    beside = spawn(stopping)
    beside.join()
    yield repr((beside.result, offload(stopping))).encode()
    sleep(2)
    yield b" whole"


def asked_late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Asks for the first time after the stop has begun."""
    start_response("200 OK", PLAIN)
    yield b"started"
    sleep(1)
    yield repr(environ["rmeinheld.stopping"]()).encode()
    sleep(0.2)
    yield b" goodbye"
    sleep(0.2)
    yield b" at length"


def export(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    for _ in range(4):
        yield b"part "
        sleep(0.5)


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return [b"hello"]


def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    say("waiting")
    sleep(1000)
    return []


def empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Yields empty items, and a text after the number of seconds in the query."""
    start_response("200 OK", PLAIN)
    say("started")
    late = time.monotonic() + float(environ["QUERY_STRING"] or 1000)
    try:
        while time.monotonic() < late:
            yield b""
            sleep(0.01)
        yield b"late"
    finally:
        say("ended")


def empty_written(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", PLAIN)
    say("started")
    try:
        while True:
            write(b"")
            sleep(0.01)
    except BaseException as error:
        say(f"ended by {type(error).__name__}")
        raise


def disconnected(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    gone: Callable[[], bool] = environ["rmeinheld.client_disconnected"]
    say(f"gone {gone()} {offload(gone)}")
    while not gone():
        sleep(0.01)
    say(f"gone {gone()} {offload(gone)}")
    start_response("200 OK", PLAIN)

    def look_later() -> None:
        time.sleep(0.3)
        say(f"later {gone()}")

    threading.Thread(target=look_later).start()
    return [b"still there"]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    return globals()[environ["PATH_INFO"].strip("/")](environ, start_response)
