"""The demo: a small Flask application that shows plain blocking code serving many clients from one thread.

    rmeinheld --chdir examples/demo app:app        (or: make run)

Then open http://127.0.0.1:8000/, or use curl:

    curl http://127.0.0.1:8000/hello                               # a normal page
    curl -N http://127.0.0.1:8000/stream                           # lines that arrive over five seconds
    curl -T README.md http://127.0.0.1:8000/upload                 # size and SHA-256, computed while it arrives
    curl -X POST http://127.0.0.1:8000/burst                       # 500 requests at once, two seconds together
    seq 500 | xargs -P 500 -I{} curl -s http://127.0.0.1:8000/slow # the same from outside
    curl http://127.0.0.1:8000/counter                             # how many run now, and on which OS threads
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, jsonify, request, send_file
from flask.typing import ResponseReturnValue

import rmeinheld
from rmeinheld.coroutine import sleep, wait_readable, wait_writable

BURST = 500
"""Requests that one burst sends at once. The server runs 1,000 at once by default (worker_connections)."""

SLOW_SECONDS = 2.0
"""The time that a request to /slow waits."""

PATIENCE_SECONDS = 30.0
"""The longest wait of a burst for one answer."""

app = Flask(__name__)


class Counter:
    """Counts the requests that are in /slow right now.

    It needs no lock: the requests take turns on one thread, and give way only where they wait.
    """

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.threads: set[int] = set()

    def __enter__(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.threads.add(threading.get_native_id())

    def __exit__(self, *_: object) -> None:
        self.running -= 1

    def reset(self) -> None:
        """Forget the maximum and the threads."""
        self.most = self.running
        self.threads = set()

    def as_dict(self) -> dict[str, object]:
        """The answer of /counter."""
        return {
            "running": self.running,
            "most_at_once": self.most,
            "process": os.getpid(),
            "os_threads": sorted(self.threads),
        }


counter = Counter()


@app.get("/")
def index() -> ResponseReturnValue:
    """The page with the buttons."""
    return send_file(Path(__file__).with_name("index.html"))


@app.get("/hello")
def hello() -> ResponseReturnValue:
    """A normal page."""
    thread = threading.get_native_id()
    server = f"rmeinheld {rmeinheld.__version__}"
    return Response(f"Hello from {server}, process {os.getpid()}, OS thread {thread}.\n", mimetype="text/plain")


@app.get("/stream")
def stream() -> ResponseReturnValue:
    """Ten lines, one every half second. Each line is sent when the generator yields it."""

    def lines() -> Iterator[str]:
        for number in range(1, 11):
            yield f"{time.strftime('%H:%M:%S')}  line {number} of 10\n"
            sleep(0.5)

    return Response(lines(), mimetype="text/plain")


@app.route("/upload", methods=["POST", "PUT"], defaults={"name": ""})
@app.put("/upload/<name>")
def upload(name: str) -> ResponseReturnValue:
    """Size and SHA-256 of the request body, which is read in blocks."""
    digest = hashlib.sha256()
    size = reads = 0
    started = time.monotonic()
    while block := request.stream.read(65536):
        digest.update(block)
        size += len(block)
        reads += 1
    seconds = round(time.monotonic() - started, 3)
    return jsonify(bytes=size, sha256=digest.hexdigest(), blocks_read=reads, seconds=seconds)


@app.get("/slow")
def slow() -> ResponseReturnValue:
    """Wait, as for a database or another server. Many of these run at once on one thread."""
    with counter:
        sleep(SLOW_SECONDS)
        return jsonify(waited_seconds=SLOW_SECONDS, os_thread=threading.get_native_id())


@app.get("/counter")
def count() -> ResponseReturnValue:
    """The number of requests that are in /slow right now."""
    return jsonify(counter.as_dict())


@app.post("/burst")
def burst() -> ResponseReturnValue:
    """Send requests for /slow to this same server, all at once. A browser opens six connections at most.

    This request too is a coroutine. It waits for the answers on ordinary non-blocking sockets.
    """
    counter.reset()
    address = (request.environ["SERVER_NAME"], int(request.environ["SERVER_PORT"] or 0))
    if not address[1]:
        return jsonify(error="the demo listens on a Unix socket, which this page cannot call"), 501
    started = time.monotonic()
    clients = [Client(address, "/slow") for _ in range(BURST)]
    try:
        for client in clients:
            client.send()
        answered = sum(client.receive().startswith(b"HTTP/1.1 200 ") for client in clients)
    finally:
        for client in clients:
            client.close()
    seconds = round(time.monotonic() - started, 2)
    return jsonify(counter.as_dict() | {"requests": BURST, "answered": answered, "seconds": seconds})


class Client:
    """One HTTP request over a non-blocking socket. Only the coroutine that uses it waits."""

    def __init__(self, address: tuple[str, int], path: str) -> None:
        family, kind, protocol, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.connect_ex(place)

    def send(self) -> None:
        """Finish the connection and send the request."""
        if not wait_writable(self._socket.fileno(), PATIENCE_SECONDS):
            raise TimeoutError("the connection was not accepted")
        # A request this short always fits into the buffer of a new connection.
        self._socket.send(self._request)

    def receive(self) -> bytes:
        """The whole response."""
        parts: list[bytes] = []
        while True:
            if not wait_readable(self._socket.fileno(), PATIENCE_SECONDS):
                raise TimeoutError("no answer")
            data = self._socket.recv(65536)
            if not data:
                return b"".join(parts)
            parts.append(data)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


if __name__ == "__main__":
    rmeinheld.run(app)
