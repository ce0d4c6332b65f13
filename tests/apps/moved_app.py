"""The application behind the tests of connections that move to the worker of their session."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rmeinheld.coroutine import sleep
from rmeinheld.websocket import WebSocket, WebSocketWSGI

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

SHOWN = ("PATH_INFO", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_PORT", "SERVER_PROTOCOL", "PROXY_ADDR")


@WebSocketWSGI
def echo(websocket: WebSocket) -> None:
    """Say which process serves, then echo."""
    websocket.send(str(os.getpid()))
    for message in websocket:
        websocket.send(message)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process, the body and a part of the environ.

    /sleep/SECONDS waits, /held until a file `released` is there, /compute/SECONDS computes, and /echo is a WebSocket.
    """
    match environ["PATH_INFO"].split("/")[1:]:
        case ["echo"]:
            return echo(environ, start_response)
        case ["held"]:
            environ["wsgi.errors"].write("begun to wait\n")
            while not Path("released").exists():
                sleep(0.02)
        case ["sleep", seconds]:
            environ["wsgi.errors"].write("begun to sleep\n")
            sleep(float(seconds))
        case ["compute", seconds]:
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                pass
    body = environ["wsgi.input"].read()
    seen = {name: environ.get(name) for name in SHOWN}
    answer = json.dumps({"pid": os.getpid(), "length": len(body), "body": body[:100].decode(), **seen}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
