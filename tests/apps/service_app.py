"""The application behind the tests of services.

It imports for IMPORT_SECONDS, and then as long as there is a file `slow`. It fails where a file `broken` is.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import rmeinheld.coroutine

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
if Path("slow").exists():
    os.write(2, b"process %d imports\n" % os.getpid())
    while Path("slow").exists():
        time.sleep(0.02)
if Path("broken").exists():
    raise RuntimeError("the file 'broken' exists")

MARK = os.environ.get("MARK", "")
EATEN: list[bytes] = []


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process and MARK.

    Paths wait: /sleep/SECONDS for a time, and /held until a file `released` is there. Others compute: /compute for
    ever, and /block/SECONDS for a while. The rest take memory (/eat/MIB), hold the interpreter for a minute (/hold)
    or end the worker (/die).
    """
    match environ["PATH_INFO"].split("/")[1:]:
        case ["sleep", seconds]:
            environ["wsgi.errors"].write("begun to sleep\n")
            rmeinheld.coroutine.sleep(float(seconds))
        case ["held"]:
            environ["wsgi.errors"].write("begun to wait\n")
            while not Path("released").exists():
                rmeinheld.coroutine.sleep(0.02)
        case ["eat", size]:
            EATEN.append(os.urandom(1024) * 1024 * int(size))
        case ["compute"]:
            os.write(2, b"process %d computes\n" % os.getpid())
            while True:
                pass
        case ["block", seconds]:
            until = time.monotonic() + float(seconds)
            while time.monotonic() < until:
                pass
        case ["hold"]:
            ctypes.PyDLL(None).sleep(60)
        case ["die"]:
            os._exit(7)
    answer = json.dumps({"pid": os.getpid(), "mark": MARK}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
