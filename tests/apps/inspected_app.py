"""The application behind the tests of the inspect socket."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rmeinheld.coroutine import sleep

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process id.

    /sleep/SECONDS waits, /compute/SECONDS computes in Python, /hold/SECONDS sleeps in C code that holds the GIL. /fork
    leaves a forked child behind.
    """
    match environ["PATH_INFO"].split("/")[1:]:
        case ["sleep", seconds]:
            sleep_for(float(seconds))
        case ["compute", seconds]:
            os.write(2, b"process %d computes\n" % os.getpid())
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                pass
        case ["hold", seconds]:
            os.write(2, b"process %d holds the GIL\n" % os.getpid())
            ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))
        case ["fork"]:
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
            os.write(2, b"forked %d\n" % child)
    answer = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


def sleep_for(seconds: float) -> None:
    """Wait, under a name that a stack shows."""
    sleep(seconds)
