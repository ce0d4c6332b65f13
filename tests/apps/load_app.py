"""The application behind the tests of the Gunicorn worker under load. It knows nothing of the server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PAUSE = 0.005
"""Seconds in the middle of every second answer."""


def text_of(number: int) -> bytes:
    """Up to 30 kB of text from which its number can be read."""
    return b"%d," % number * (number * 37 % 5000)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer /NUMBER with the id of the process, a newline and the number's text; / with the id and the CPUs."""
    path = environ["PATH_INFO"]
    pid = b"%d\n" % os.getpid()
    if path == "/":
        answer = json.dumps({"pid": os.getpid(), "cpus": sorted(os.sched_getaffinity(0))}).encode()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]
    number = int(path[1:])
    text = text_of(number)
    if number % 2:
        start_response("200 OK", [("Content-Length", str(len(pid + text)))])
        return [pid, text]
    start_response("200 OK", [])
    return in_pieces(pid, text)


def in_pieces(pid: bytes, text: bytes) -> Iterator[bytes]:
    yield pid
    time.sleep(PAUSE)
    yield text
