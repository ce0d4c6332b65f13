"""The application behind the tests of fairness: requests that would keep the loop for themselves, and short ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rmeinheld.patch import patch_all

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

patch_all()

ENDLESS_SECONDS = 20.0
"""After this time a request ends by itself, so that a failure does not last."""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """/busy computes for 20 ms. /lines and /blocks read the body. /items and /write answer until the client leaves."""
    path = environ["PATH_INFO"]
    source = environ["wsgi.input"]
    end = time.monotonic() + ENDLESS_SECONDS
    result = b"ok"
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    match path:
        case "/busy":
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass
        case "/lines":
            result = b"%d" % sum(1 for _ in source)
        case "/blocks":
            total = 0
            while block := source.read(8192):
                total += len(block)
            result = b"%d" % total
        case "/items":
            return items(end)
        case "/empty":
            return items(time.monotonic() + 0.5, b"")
        case "/write":
            while time.monotonic() < end:
                write(b"x" * 8192)
    return [result]


def items(end: float, item: bytes = b"x" * 8192) -> Iterator[bytes]:
    """Yield the same item until `end`."""
    while time.monotonic() < end:
        yield item
