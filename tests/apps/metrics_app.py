"""The application behind the tests of a service's metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import rmeinheld.coroutine

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

CROWD: list[object] = []


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process. /spawn/NUMBER starts coroutines that sleep, once; /compute computes for ever."""
    match environ["PATH_INFO"].split("/")[1:]:
        case ["spawn", number] if not CROWD:
            CROWD.extend(rmeinheld.coroutine.spawn(rmeinheld.coroutine.sleep, 600) for _ in range(int(number)))
        case ["compute"]:
            os.write(2, b"process %d computes\n" % os.getpid())
            while True:
                pass
    answer = json.dumps({"pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
