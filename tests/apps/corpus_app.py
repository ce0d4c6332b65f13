"""The application behind the corpus: it answers with what it saw of the request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with JSON: method, target, path, query, body (null if it was not read) and the strings of the environ.

    The body is read except below /unread. Requests below /smuggled are logged, since no case of the corpus holds one
    that may be served, and so are those below /mark. HEAD has its answer in the field X-Seen. CONNECT is refused, as
    an answer of 2xx would make a tunnel of the connection (RFC 9110 9.3.6).
    """
    method, target = environ["REQUEST_METHOD"], environ["RAW_URI"]
    if target.startswith(("/smuggled", "/mark")):
        errors = environ["wsgi.errors"]
        errors.write(f"served {target}\n")
        errors.flush()
    body = None if target.startswith("/unread") else environ["wsgi.input"].read().decode("latin-1")
    seen = {
        "method": method,
        "target": target,
        "path": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "body": body,
        "environ": {key: value for key, value in environ.items() if isinstance(value, str)},
    }
    answer = json.dumps(seen)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
    if method == "HEAD":
        headers.append(("X-Seen", answer))
    start_response("405 Method Not Allowed" if method == "CONNECT" else "200 OK", headers)
    return [answer.encode()]
