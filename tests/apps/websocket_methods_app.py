"""Applications for the tests of the methods of a WebSocket, by path. `/thread/NAME` calls NAME in an OS thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse

from werkzeug.datastructures import Headers
from werkzeug.http import dump_cookie

from rmeinheld.coroutine import offload, sleep, spawn
from rmeinheld.geventwebsocket import WebSocketError
from rmeinheld.websocket import ConnectionClosed, WebSocket


def outcome(call: Callable[[], object]) -> str:
    """Return the result of a call, or its exception, as text."""
    try:
        return repr(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def pings(websocket: WebSocket) -> None:
    """Pings and waits for the answer."""
    before = websocket.latency
    taken = websocket.ping()
    websocket.send(repr([before, 0.05 <= taken < 5, websocket.latency == taken]))
    taken = websocket.ping("mine", timeout=10)
    websocket.send(repr([0 <= taken < 5, websocket.latency == taken]))


def pings_at_once(websocket: WebSocket) -> None:
    """Pings from three coroutines, of which two have the same payload."""
    websocket.accept()
    said: list[str] = []
    pingers = [spawn(lambda: said.append(outcome(lambda: websocket.ping(b"one") < 5)))]
    sleep(0)
    pingers.append(spawn(lambda: said.append(outcome(lambda: websocket.ping(b"one")))))
    pingers.append(spawn(lambda: said.append(outcome(lambda: websocket.ping(b"two") < 5))))
    for pinger in pingers:
        pinger.join()
    websocket.send(repr(said))


def pings_in_vain(websocket: WebSocket) -> None:
    """Pings a client that does not answer, without a wait, with a time limit, and until it closes."""
    websocket.send(outcome(lambda: websocket.ping("first", wait=False)))
    websocket.send(outcome(lambda: websocket.ping(timeout=0.1)))
    print("closed", outcome(websocket.ping), flush=True)


def answered_later(websocket: WebSocket) -> None:
    """Pings without a wait, and says the latency once it is known."""
    websocket.ping(b"later", wait=False)
    websocket.send("pinged")
    while websocket.latency is None:
        time.sleep(0.005)
    websocket.send(repr(0.1 <= websocket.latency < 5))


def kept_alive(websocket: WebSocket) -> None:
    """Says the latency when asked."""
    for _ in websocket:
        websocket.send(repr(websocket.latency))


def silence(websocket: WebSocket) -> None:
    """Measures the silence of the client."""
    said = [websocket.last_received]
    websocket.accept()
    accepted = websocket.last_received
    assert accepted is not None and abs(time.monotonic() - accepted) < 5
    websocket.send("go on")
    assert websocket.receive() == "spoken"
    received = websocket.last_received
    time.sleep(0.1)
    assert received is not None and received > accepted
    websocket.send(repr([*said, received == websocket.last_received, 0.1 <= time.monotonic() - received < 5]))


def stalled(websocket: WebSocket) -> None:
    """Sends until the client has no more room, then says so."""
    count = 0
    try:
        while True:
            websocket.send(f"{count} " + "x" * 10_000, timeout=0.1)
            count += 1
    except TimeoutError as error:
        print("sent", count, websocket.closed, error, flush=True)
    print("at once", outcome(lambda: websocket.send("never", timeout=0)), flush=True)
    print("json", outcome(lambda: websocket.send_json(["never"], timeout=0.01)), flush=True)
    print("ping", outcome(lambda: websocket.ping(timeout=0.01)), flush=True)
    websocket.send("last")


def wrong(websocket: WebSocket) -> None:
    """Makes mistakes, after which the connection is still usable."""
    calls: list[Callable[[], object]] = [
        lambda: websocket.send("x", timeout=-1),
        lambda: websocket.send(b"\xff", binary=False),
        lambda: websocket.ping(bytes(126)),
        lambda: websocket.ping(timeout=-1),
        lambda: websocket.close(1000, b"\xff"),
        lambda: websocket.close(1000, bytes(124)),
        lambda: websocket.send_json(float("nan")),
        lambda: websocket.send_json({1, 2}),
        lambda: websocket.receive_json(-1),
        lambda: websocket.receive_json(0),
    ]
    for call in calls:
        websocket.send(outcome(call))


def wrong_options(websocket: WebSocket) -> None:
    """Accepts with values out of range, and then in order."""
    said = [
        outcome(lambda: websocket.accept(max_message_size=0)),
        outcome(lambda: websocket.accept(max_message_size=2**31)),
        outcome(lambda: websocket.accept(ping_interval=-1)),
        outcome(lambda: websocket.accept(ping_interval=float("nan"))),
    ]
    for one in said:
        websocket.send(one)


def json(websocket: WebSocket) -> None:
    """Echoes JSON."""
    while not websocket.closed:
        try:
            websocket.send_json(websocket.receive_json())
        except ConnectionClosed as error:
            print("JSON ends", error.code, flush=True)
        except ValueError as error:
            websocket.send(str(error))


def block(websocket: WebSocket) -> None:
    """A block that ends in order."""
    with websocket as same:
        assert same is websocket
        websocket.send("within")
    print("after the block", websocket.closed, websocket.close_code, flush=True)


def accepted_block(websocket: WebSocket) -> None:
    """A block after an accept."""
    websocket.accept(headers=[("X-Room", "1")])
    with websocket:
        websocket.close(4000, "own")


def cookies(websocket: WebSocket) -> None:
    """Sets two cookies in the handshake."""
    cookie = dump_cookie("user", "7; \u00e9", httponly=True, samesite="Lax")
    headers = Headers([("Set-Cookie", cookie), ("set-cookie", "theme=dark; Path=/"), ("X-Room", "caf\u00e9")])
    websocket.accept(headers=headers)
    websocket.send("set")


def failing_block(websocket: WebSocket) -> None:
    """A block that an exception ends, which the application then handles."""
    try:
        with websocket:
            raise LookupError("within")
    except LookupError:
        print("after the error", websocket.close_code, flush=True)


def left_block(websocket: WebSocket) -> None:
    """A block whose client goes."""
    with websocket:
        for message in websocket:
            websocket.send(message)
        websocket.send("too late")


def gevents(websocket: WebSocket) -> None:
    """Code for gevent-websocket."""
    websocket.send("text", True)
    websocket.send(b"bytes", binary=False)
    websocket.send(bytearray(b"more"))
    while True:
        message = websocket.receive()
        if message is None:
            break
        websocket.send(message)
    try:
        websocket.send("late")
    except WebSocketError as error:
        print("an OSError:", isinstance(error, OSError), flush=True)


def bye(websocket: WebSocket) -> None:
    """Closes with bytes."""
    websocket.close(1000, b"bye")
    websocket.close(1000, None)


def small(websocket: WebSocket) -> None:
    """Accepts short messages, and is pinged often."""
    websocket.accept(max_message_size=10, ping_interval=0.1)
    for message in websocket:
        websocket.send(message)


def large(websocket: WebSocket) -> None:
    """Accepts long messages, and is never pinged."""
    websocket.accept(max_message_size=200_000, ping_interval=0)
    for message in websocket:
        websocket.send(str(len(message)))


def waits(websocket: WebSocket) -> None:
    """Receives."""
    for message in websocket:
        websocket.send(message)


HANDLERS: dict[str, Callable[[WebSocket], None]] = {
    handler.__name__: handler
    for handler in (
        accepted_block, answered_later, block, bye, cookies, failing_block, gevents, json, kept_alive, large,
        left_block, pings, pings_at_once, pings_in_vain, silence, small, stalled, waits, wrong, wrong_options,
    )
}  # fmt: skip


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Calls the handler of the path. Other requests get an object of JSON."""
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]
    first, _, name = environ["PATH_INFO"][1:].rpartition("/")
    if first == "thread":
        offload(HANDLERS[name], websocket)
    else:
        HANDLERS[name](websocket)
    return []
