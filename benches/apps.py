"""The WSGI applications that every server in the benchmark serves.

`BENCH_SLEEP_MODULE` names the module whose `sleep` the application `parked` calls: `time` (the default; patched by
gevent, blocking a thread of its own in Granian) or `rmeinheld.coroutine`. `BENCH_SLEEP_SECONDS` (default 0.1) says how
long.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

BODY = b"Hello, world!"

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
