"""Call an application again and again without a server, and print what a request takes: `alone.py APP TARGET SECONDS`.

APP is "module:app", TARGET the path and query of a GET. The output is JSON: {"cpu_us": C, "requests": N}. C is the user
and system time of the process for each request, with all threads. Requests come one at a time, so each query blocks
the process in C. A server that works on many requests sleeps and is woken less often, and may need less CPU.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

WARM_UP = 0.5
"""The part of SECONDS that comes before the measurement."""

Application = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
    """Take the head of the answer; raises AssertionError if it is not a good one."""
    assert status.startswith("200 "), status


def call(app: Application, target: str) -> None:
    """Make one request, as PEP 3333 says."""
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    body = app(environ, start_response)
    try:
        for _ in body:
            pass
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def calls(app: Application, target: str, seconds: float) -> int:
    """Make requests for this time; returns how many."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        call(app, target)
        count += 1
    return count


def main() -> None:
    """Measure the application that the command line names."""
    module, name = sys.argv[1].split(":")
    app: Application = getattr(importlib.import_module(module), name)
    target, seconds = sys.argv[2], float(sys.argv[3])
    calls(app, target, WARM_UP * seconds)
    before = time.process_time()
    count = calls(app, target, seconds)
    used = time.process_time() - before
    print(json.dumps({"cpu_us": used / count * 1e6, "requests": count}))


if __name__ == "__main__":
    main()
