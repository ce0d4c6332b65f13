"""Clients within the server process, whose requests arrive in one poll, and answers that say what the others have got.

`/run/NAME` runs a scenario and answers what it has found, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rmeinheld.coroutine import sleep

BODY = b"x" * 100
LARGE = 15_000
TRIES = 40
PATIENCE = 10.0
"""Seconds in which a client gets its answer."""

_libc_with_the_interpreter = ctypes.PyDLL(None)

clients: list[Client] = []
looks: list[bool] = []
"""For each look of a request: had the first client got anything?"""

served: list[str] = []
"""The large bodies that were made."""


class Client:
    """A client that reads only when it is asked to."""

    def __init__(self, port: int, buffer: int = 0) -> None:
        self.sock = socket.socket()
        if buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)

    def send(self, *paths: str, method: str = "GET", more: str = "") -> None:
        head = "".join(f"{method} {path} HTTP/1.1\r\nHost: test\r\n{more}\r\n" for path in paths)
        self.sock.sendall(head.encode())

    def has_input(self) -> bool:
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def read(self, size: int) -> bytes:
        """At least `size` bytes, or those until the end."""
        data, end = b"", time.monotonic() + PATIENCE
        while len(data) < size and time.monotonic() < end:
            try:
                piece = self.sock.recv(1 << 20)
            except BlockingIOError:
                sleep(0.001)
                continue
            if not piece:
                break
            data += piece
        return data

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while end not in data and (piece := self.read(1)):
            data += piece
        return data

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def look() -> bool:
    looks.append(clients[0].has_input())
    return looks[-1]


def work() -> None:
    """A turn that is long enough for its answer to be held."""
    end = time.perf_counter() + 0.0001
    while time.perf_counter() < end:
        pass


def batch(paths: list[str], **options: str) -> bytes:
    """Sends a path on each client, so that one poll finds all requests. Returns the answer to the first."""
    for number, path in enumerate(paths):
        clients[number].send(path, **(options if number == 0 else {}))
    for number in range(1, len(paths)):
        clients[number].read_until(b"\r\n\r\n")
    return clients[0].read_until(b"\r\n\r\n")


def begin(port: int, count: int = 2) -> None:
    """Has enough long turns behind it for answers to be held."""
    clients[:] = [Client(port) for _ in range(count)]
    for _ in range(20):
        batch(["/sized"] * count)
    looks.clear()


def kinds(port: int) -> Any:
    """For each kind of answer: had the client got anything when the next request of the poll ran, and its answer."""
    found: dict[str, Any] = {}
    for kind in ["sized", "iterable", "chunked", "empty", "writes", "large"]:
        begin(port)
        answers = {batch([f"/{kind}", "/look"]).split(b"\r\n\r\n")[1][:10].decode() for _ in range(TRIES)}
        found[kind] = [looks[:], sorted(answers)]
    for name, options in {"head": {"method": "HEAD"}, "closing": {"more": "Connection: close\r\n"}}.items():
        begin(port)
        for _ in range(TRIES):
            if name == "closing":
                # The connection was accepted in an earlier poll.
                clients[0] = Client(port)
                batch(["/sized"])
            batch(["/sized", "/look"], **options)
        found[name] = [looks[:], []]
    return found


def before_others(port: int) -> Any:
    """For each work of the second request: had the first client its answer before that, and afterwards?"""
    found = {}
    for path in ["/park", "/fork", "/blocks"]:
        begin(port)
        for _ in range(TRIES if path != "/blocks" else 3):
            batch(["/sized", path])
        found[path] = list(zip(looks[::2], looks[1::2], strict=True))
    return found


def pipelines(port: int) -> Any:
    """The numbers in the answers of a pipeline, next to requests of another client."""
    begin(port)
    found = []
    for _ in range(TRIES):
        clients[0].send(*(f"/number/{number}" for number in range(40)))
        clients[1].send("/sized")
        answers = clients[0].read_until(b"number 39.")
        found.append([int(part.split(b".")[0]) for part in answers.split(b"number ")[1:]])
        clients[1].read_until(BODY)
    return found


def slow(port: int) -> Any:
    """Large answers to a client that takes none for a while, next to requests of another client.

    Returns how many requests were sent and how many were served before the client took anything, the numbers in the
    answers, and the bytes of their bodies.
    """
    begin(port)
    clients[0] = Client(port, buffer=4096)
    served.clear()
    count = 300
    for number in range(count):
        clients[0].send(f"/large/{number}")
        clients[1].send("/sized")
        clients[1].read_until(BODY)
    served_before = len(served)
    clients[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    data = clients[0].read(count * LARGE)
    # The heads are still missing.
    while data.count(b"~") < count * LARGE and (piece := clients[0].read(1)):
        data += piece
    numbers = [int(part.split(b".")[0]) for part in data.split(b"number ")[1:]]
    return [count, served_before, numbers, data.count(b"~")]


def resets(port: int) -> Any:
    """The first client resets its connection while its answer is held. Returns the answers of others afterwards."""
    found = []
    for _ in range(TRIES):
        begin(port, 3)
        clients[0].send("/sized")
        clients[1].send("/reset")
        clients[2].send("/sized")
        found.append([clients[1].read_until(BODY)[-3:].decode(), clients[2].read_until(BODY)[-3:].decode()])
    return found


def stops(port: int) -> Any:
    """The server begins to stop while an answer is held."""
    begin(port)
    clients[0].send("/sized")
    clients[1].send("/stop")
    return clients[0].read_until(BODY)[-3:].decode()


def raw(port: int) -> Any:
    """Gets ready for clients of another process."""
    begin(port)


SCENARIOS: dict[str, Callable[[int], Any]] = {
    scenario.__name__: scenario for scenario in (kinds, before_others, pipelines, slow, resets, stops, raw)
}


class Items:
    """An iterable as Werkzeug's ClosingIterator: without a length, and with `close`."""

    def __init__(self, *items: bytes) -> None:
        self.items = iter(items)

    def __iter__(self) -> Iterator[bytes]:
        return self.items

    def close(self) -> None:
        work()


def second(path: str) -> None:
    """The work of a request behind the first one."""
    look()
    if path == "/park":
        sleep(0)
    elif path == "/fork":
        child = os.fork()
        if child == 0:
            os._exit(clients[0].has_input())
        _, status = os.waitpid(child, 0)
        looks.append(os.waitstatus_to_exitcode(status) == 1)
        return
    elif path == "/blocks":
        # Holds the interpreter, so that no other thread of Python runs.
        _libc_with_the_interpreter.usleep(100_000)
    look()


def items_before_a_block(environ: dict[str, Any]) -> Iterator[bytes]:
    """Items that their socket does not take at once, and then two seconds in C that hold the interpreter."""
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:
            continue
        try:
            with socket.socket(fileno=copy) as found:
                if found.getpeername()[:2] == ("127.0.0.1", int(environ["REMOTE_PORT"])):
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        except OSError:
            continue
    for _ in range(50):
        yield b"x" * 1000
    _libc_with_the_interpreter.usleep(2_000_000)
    environ["wsgi.errors"].write("the block is over\n")


def app(environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], object]]) -> Iterable[bytes]:
    """The path says which."""
    path = environ["PATH_INFO"]
    fields = [("Content-Type", "text/plain")]
    if path.startswith("/run/"):
        found = json.dumps(SCENARIOS[path[5:]](int(environ["SERVER_PORT"]))).encode()
        for client in clients:
            client.sock.close()
        start_response("200 OK", fields)
        return [found]
    if path == "/block":
        start_response("200 OK", fields)
        return items_before_a_block(environ)
    work()
    if path == "/chunked":
        start_response("200 OK", fields)
        return (item for item in [BODY, BODY])
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    if path == "/writes":
        start_response("200 OK", [*fields, ("Content-Length", "100")])(BODY)
        return []
    if path.startswith("/large"):
        body = b"number " + path[7:].encode() + b"." + b"~" * LARGE
        body = body if path != "/large" else BODY * 300
        served.append(path)
        start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
        return Items(body) if path == "/large" else [body]
    body = BODY
    if path == "/look":
        look()
    elif path in ("/park", "/fork", "/blocks"):
        second(path)
    elif path == "/reset":
        clients[0].reset()
    elif path.startswith("/gate/"):
        # Holds up the loop until the requests of other clients have arrived.
        _libc_with_the_interpreter.read(os.open(path[5:], os.O_RDONLY), ctypes.create_string_buffer(1), 1)
    elif path == "/exit":
        os._exit(0)
    elif path == "/exec":
        os.execlp("true", "true")
    elif path == "/stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif path.startswith("/number/"):
        body = b"number " + path[8:].encode() + b"."
    start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
    return Items(body) if path == "/iterable" else [body]
