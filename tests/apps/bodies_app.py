"""The application behind the tests of request bodies: it reports what `wsgi.input` is, and what is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

KEPT: list[object] = []
"""Inputs of requests that are over."""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Below /unread the body is not read. Below /kept its file is kept for the next request; /after reads it then."""
    source = environ["wsgi.input"]
    errors = environ["wsgi.errors"]
    errors.write(f"served {environ['PATH_INFO']}\n")
    errors.flush()
    report: dict[str, object] = {
        "length": environ.get("CONTENT_LENGTH"),
        "coding": environ.get("HTTP_TRANSFER_ENCODING"),
        "type": type(source).__name__,
    }
    match environ["PATH_INFO"]:
        case "/unread":
            pass
        case "/kept":
            KEPT.append(source)
        case "/after":
            try:
                KEPT.pop().read()  # type: ignore[attr-defined]
            except ValueError as error:
                report["error"] = str(error)
        case "/seek":
            first = source.read()
            source.seek(0)
            report["same"] = source.read() == first
        case _:
            body = source.read()
            report |= {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    answer = json.dumps(report).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
