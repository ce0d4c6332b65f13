"""The application whose instructions `instructions.py` counts: one route for each of its rows.

`/mark` calls a function of the C library that nothing else calls: there callgrind writes down what it has counted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import Any

from flask import Flask, jsonify

MANY_HEADERS = [(f"X-Header-{number}", "a value of some length") for number in range(18)]
LARGE = b"x" * 99_994 + b"world!"
ITEM = b"x" * 1000

flask = Flask(__name__)


@flask.get("/flask")
def flask_json() -> Any:
    """Answer a small object."""
    return jsonify(message="Hello, world!")


FILE = tempfile.NamedTemporaryFile()
FILE.write(b"x" * 1000 + b"world!")
FILE.flush()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer each route as its row says."""
    match environ["PATH_INFO"]:
        case "/hello":
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
            return [b"Hello, world!"]
        case "/headers":
            start_response("200 OK", [*MANY_HEADERS, ("Content-Type", "text/plain"), ("Content-Length", "13")])
            return [b"Hello, world!"]
        case "/no-length":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"Hello, world!"]
        case "/generator":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return (ITEM for _ in range(10))
        case "/large":
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(LARGE)))])
            return [LARGE]
        case "/echo":
            body = environ["wsgi.input"].read()
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
            return [body]
        case "/file":
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1006")])
            file: Iterable[bytes] = environ["wsgi.file_wrapper"](open(FILE.name, "rb"))
            return file
        case "/websocket":
            websocket = environ["wsgi.websocket"]
            while (message := websocket.receive()) is not None:
                websocket.send(message)
            return []
        case "/mark":
            os.getloadavg()
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
            return [b"marked"]
    return flask(environ, start_response)
