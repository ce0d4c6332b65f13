"""Applications for the tests of WebSockets, by path."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse

from rmeinheld.coroutine import Event, Timeout, offload, sleep, spawn, timeout
from rmeinheld.websocket import ConnectionClosed, WebSocket

released = Event()
noted: list[Any] = []


def echo(websocket: WebSocket) -> None:
    """Sends every message back."""
    for message in websocket:
        websocket.send(message)


def attributes(websocket: WebSocket) -> None:
    """Sends the attributes of the WebSocket."""
    before = (websocket.closed, websocket.close_code, websocket.close_reason)
    environ = websocket.environ
    assert environ is not None and environ["wsgi.websocket"] is websocket
    websocket.send(repr([websocket.path, websocket.origin, websocket.subprotocols, websocket.version, before]))
    assert websocket.wait() is None
    noted.append((websocket.closed, websocket.close_code, websocket.close_reason))


def note(websocket: WebSocket) -> None:
    """Sends the notes, and deletes them."""
    websocket.send(repr(noted))
    noted.clear()


def subprotocol(websocket: WebSocket) -> None:
    """Accepts with the client's last subprotocol and one more header."""
    websocket.accept(websocket.subprotocols[-1], [("X-Room", "1")])
    websocket.send(repr((websocket.subprotocol, websocket.protocol)))


def wrong(websocket: WebSocket) -> None:
    """Makes mistakes, after which the connection is still usable."""
    calls: list[Callable[[], object]] = [
        lambda: websocket.accept("chat"),
        lambda: websocket.accept(None, [("Sec-WebSocket-Accept", "x")]),
        lambda: websocket.accept(None, [("Content-Length", "1")]),
        lambda: websocket.accept(None, [("X", "a\r\nb")]),
        lambda: websocket.accept(None, [("X",)]),  # type: ignore[list-item]
        lambda: websocket.send(1),  # type: ignore[arg-type]
        lambda: websocket.send("\ud800"),
        lambda: websocket.ping(bytes(126)),
        lambda: websocket.close(1005),
        lambda: websocket.close(999),
        lambda: websocket.close(-1),
        lambda: websocket.close(1000, "\u20ac" * 42),
        lambda: websocket.receive(-1.0),
        lambda: websocket.receive(0.0),
        lambda: websocket.accept(),
    ]
    names = []
    for call in calls:
        try:
            call()
            names.append("nothing")
        except Exception as error:
            names.append(type(error).__name__)
    websocket.send(" ".join(names))


def silent(websocket: WebSocket) -> None:
    """Neither receives nor sends until released."""
    websocket.accept()
    released.clear()
    released.wait()


def raises(websocket: WebSocket) -> None:
    """Raises an error."""
    websocket.send("before")
    raise LookupError("the application's own fault")


def closes(websocket: WebSocket) -> None:
    """Receives while another coroutine closes."""

    def close() -> None:
        sleep(0.02)
        websocket.close(4000, "enough")

    spawn(close)
    assert websocket.receive() is None
    assert (websocket.closed, websocket.close_code, websocket.close_reason) == (True, 4000, "enough")
    websocket.close(1000, "is too late")
    try:
        websocket.send("too late")
    except ConnectionClosed as error:
        noted.append((error.code, error.reason, isinstance(error, ConnectionError)))


def many(websocket: WebSocket) -> None:
    """Has ten coroutines and threads send a hundred long messages each."""

    def send(number: int) -> None:
        for count in range(100):
            websocket.send(f"{number} {count} " + str(number) * 5000)

    senders = [spawn(send, number) for number in range(5)]
    senders += [spawn(offload, send, number) for number in range(5, 10)]
    for sender in senders:
        sender.join()
        assert sender.result is None
    websocket.send("done")


def flood(websocket: WebSocket) -> None:
    """Sends to a client that reads nothing, while another coroutine receives."""
    sent = [0]

    def send() -> None:
        try:
            while True:
                websocket.send(bytes(10_000))
                sent[0] += 1
        except ConnectionClosed as error:
            noted.append(error.code)

    sender = spawn(send)
    for message in websocket:
        noted.append((message, sent[0]))
    sender.join()


def impatient(websocket: WebSocket) -> None:
    """Times out twice: by the argument, and by an enclosing `timeout`."""
    try:
        websocket.receive(timeout=0.01)
    except TimeoutError:
        websocket.send("first")
    try:
        with timeout(0.01):
            websocket.receive()
    except Timeout:
        websocket.send("second")
    echo(websocket)


def threaded(websocket: WebSocket) -> None:
    """Does everything in an OS thread, accepting too."""

    def work() -> None:
        for message in websocket:
            time.sleep(0.001)
            websocket.send(message)
        noted.append(websocket.close_code)

    offload(work)


def slow(websocket: WebSocket) -> None:
    """Receives one message for each time it is released."""
    websocket.accept()
    released.clear()
    released.wait()
    total = 0
    for message in websocket:
        total += len(message)
        if message == "end":
            break
    websocket.send(str(total))


def large(websocket: WebSocket) -> None:
    """Sends one message of the requested size, then echoes."""
    environ = websocket.environ
    assert environ is not None
    websocket.send(bytes(int(environ["QUERY_STRING"])))
    echo(websocket)


def pings(websocket: WebSocket) -> None:
    """Pings, then echoes."""
    websocket.ping(wait=False)
    websocket.ping(b"payload", wait=False)
    echo(websocket)


HANDLERS: dict[str, Callable[[WebSocket], None]] = {
    f"/{handler.__name__}": handler
    for handler in (
        attributes, closes, echo, flood, impatient, large, many, note,
        pings, raises, silent, slow, subprotocol, threaded, wrong,
    )
}  # fmt: skip


def answered(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answers with an ordinary response."""
    start_response("401 Unauthorized", [("Content-Type", "text/plain")])
    return [b"who are you?"]


def answered_after(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """A framework that answers after its handler has used the WebSocket."""
    environ["wsgi.websocket"].send("hello")
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        write(b"not for a WebSocket")
    except RuntimeError as error:
        environ["wsgi.websocket"].send(str(error))
    return [b"neither this"]


def failed_after(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """A framework that turns the error of its handler into a page."""
    environ["wsgi.websocket"].send("hello")
    start_response("500 Internal Server Error", [])
    return [b"sorry"]


def generated(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """A generator, which runs when the server iterates over it."""
    echo(environ["wsgi.websocket"])
    yield b""


def taken(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """A library that speaks the protocol itself, on the socket in `environ["gunicorn.socket"]`."""
    socket = environ["gunicorn.socket"]
    socket.sendall(b"HTTP/1.1 101 Mine\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert socket.getpeername()[0] == "127.0.0.1" and socket.fileno() > 2
    socket.settimeout(0.01)
    data = b""
    with contextlib.suppress(TimeoutError):
        data = socket.recv(10)
    socket.settimeout(None)
    socket.sendall(data)
    while data := socket.recv(100):
        socket.send(data)
    raise StopIteration


def given_up(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Takes the connection over in the way of Gunicorn's workers, and does nothing."""
    raise StopIteration


APPLICATIONS = {f"/{app.__name__}": app for app in (answered, answered_after, failed_after, generated, given_up, taken)}


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Calls the handler or application of the path. A plain request releases the waiting handlers."""
    path = environ["PATH_INFO"]
    websocket = environ.get("wsgi.websocket")
    if websocket is not None and path in APPLICATIONS:
        return APPLICATIONS[path](environ, start_response)
    if websocket is None:
        released.set()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"no websocket"]
    HANDLERS[path](websocket)
    return []
