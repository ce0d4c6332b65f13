"""The WSGI applications that every server in the benchmark serves.

`BENCH_SLEEP_MODULE` names the module whose `sleep` the application `parked` calls: `time` (the default; patched by
gevent, blocking a thread of its own in Granian) or `rmeinheld.coroutine`. `BENCH_SLEEP_SECONDS` (default 0.1) says how
long.
"""

from __future__ import annotations

import importlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

BODY = b"Hello, world!"
LARGE = b"x" * 99_994 + b"world!"
ITEM = b"x" * 1000
MANY_HEADERS = [(f"X-Header-{number}", "a value of some length") for number in range(18)]

# A file of 10 MB, without a name.
FILE = tempfile.TemporaryFile()
FILE.truncate(10_000_000)
counted = itertools.count()

SLEEP_SECONDS = float(os.environ.get("BENCH_SLEEP_SECONDS", "0.1"))
sleep: Callable[[float], None] = importlib.import_module(os.environ.get("BENCH_SLEEP_MODULE", "time")).sleep

# One entry per request that is asleep. A list, since append and pop are atomic in threads and in coroutines alike.
asleep: list[None] = []


def hello(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer 13 bytes with their Content-Length."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


def no_length(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer the same 13 bytes and leave the framing of the answer to the server."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [BODY]


def parked(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Sleep, then answer as `hello` does; `/asleep` answers at once with the number of requests asleep now."""
    if environ["PATH_INFO"] == "/asleep":
        body = b"%d" % len(asleep)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
    asleep.append(None)
    sleep(SLEEP_SECONDS)
    asleep.pop()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


def bodies(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer in different shapes: many headers, a generator, 100 kB, the body of the request, a file of 10 MB."""
    path = environ["PATH_INFO"]
    if path == "/generator":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (ITEM for _ in range(10))
    if path == "/file":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10000000")])
        copy = os.fdopen(os.open(f"/proc/self/fd/{FILE.fileno()}", os.O_RDONLY), "rb")
        return environ["wsgi.file_wrapper"](copy)  # type: ignore[no-any-return]
    headers, body = [], BODY
    if path == "/headers":
        headers = MANY_HEADERS
    elif path == "/large":
        body = LARGE
    elif path == "/echo":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [*headers, ("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def bimodal(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Compute for 5 us, or for 300 us in every tenth request."""
    until = time.perf_counter_ns() + (300_000 if next(counted) % 10 == 0 else 5_000)
    while time.perf_counter_ns() < until:
        pass
    return hello(environ, start_response)


def drain(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Read the body, and answer as `hello` does; `/error` raises."""
    if environ["PATH_INFO"] == "/error":
        raise RuntimeError("as the client wished")
    environ["wsgi.input"].read()
    return hello(environ, start_response)
