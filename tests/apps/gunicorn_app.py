"""The application behind the tests of the Gunicorn worker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import rmeinheld.coroutine

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def busy() -> None:
    while True:
        pass


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the environ and the id of the process, as JSON; below /sleep after a second, below /busy never."""
    environ["wsgi.errors"].write(f"begun {environ['PATH_INFO']}\n")
    environ["wsgi.errors"].flush()
    match environ["PATH_INFO"]:
        case "/sleep":
            rmeinheld.coroutine.sleep(1)
        case "/busy":
            busy()
        case "/echo":
            for message in environ["wsgi.websocket"]:
                environ["wsgi.websocket"].send(message)
            return []
        case "/fail":
            raise RuntimeError("the application failed on purpose")
    seen = {key: value for key, value in environ.items() if isinstance(value, str | bool)} | {"pid": os.getpid()}
    answer = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
