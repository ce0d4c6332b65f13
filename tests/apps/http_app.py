"""The application behind the tests of the wire: one small behaviour per path."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import rmeinheld.coroutine

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

FLOOD_ITEM = b"x" * 65536
FLOOD_ITEMS = 3200
"""200 MiB in all."""


class Flood:
    """Yields far more than any socket buffer holds, and reports its progress when it is closed."""

    def __init__(self, errors: Any) -> None:
        self.errors = errors
        self.items = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.items < FLOOD_ITEMS:
            self.items += 1
            yield FLOOD_ITEM

    def close(self) -> None:
        self.errors.write(f"flood closed after {self.items} items\n")
        self.errors.flush()


def events(count: int) -> Iterator[bytes]:
    """This number of events, 50 ms apart."""
    for number in range(count):
        yield b"data: %d\n\n" % number
        rmeinheld.coroutine.sleep(0.05)


def environ_as_json(environ: WSGIEnvironment) -> bytes:
    plain = {key: value for key, value in environ.items() if isinstance(value, str | bool | int | tuple)}
    return json.dumps(plain).encode()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    query = environ.get("QUERY_STRING", "")
    source = environ["wsgi.input"]
    errors = environ["wsgi.errors"]
    errors.write(f"served {environ['REQUEST_METHOD']} {path}\n")
    errors.flush()
    status = "200 OK"
    headers = [("Content-Type", "text/plain")]

    def sized(body: bytes) -> list[bytes]:
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]

    match path.split("/")[1:]:
        case ["environ"]:
            return sized(environ_as_json(environ))
        case ["echo"]:
            return sized(source.read())
        case ["echo-after", seconds]:
            rmeinheld.coroutine.sleep(float(seconds))
            return sized(source.read())
        case ["echo-slowly"]:
            time.sleep(0.2)
            return sized(source.read())
        case ["count"]:
            total = 0
            while data := source.read(65536):
                total += len(data)
            return sized(b"%d" % total)
        case ["echo-late"]:
            start_response(status, [*headers, ("Content-Length", "10")] if query == "sized" else headers)
            return (item() for item in (lambda: b"first ", source.read))
        case ["swallow"]:
            with contextlib.suppress(OSError):
                source.read()
            return sized(b"swallowed")
        case ["partial"]:
            return sized(source.read(3))
        case ["list"]:
            start_response(status, headers)
            return [b"one", b"", b"two"]
        case ["single"]:
            start_response(status, headers)
            return [b"alone"]
        case ["empty"]:
            start_response(status, headers)
            return []
        case ["generator"]:
            start_response(status, headers)
            return (item for item in (b"first", b"", b"second", b"third"))
        case ["sized-generator"]:
            start_response(status, [*headers, ("Content-Length", "10")])
            return (item for item in (b"01234", b"56789"))
        case ["status", code]:
            start_response(f"{code} Whatever", headers)
            return [b"" if query == "empty" else b"a body that must not be sent"]
        case ["upgrade-required"]:
            status = "426 Upgrade Required"
            headers.append(("Upgrade", "TLS/1.0, HTTP/1.1"))
            return sized(b"upgrade")
        case ["own-date-and-server"]:
            status = "200 OK"
            headers += [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("server", "mine/1.0")]
            return sized(b"own")
        case ["close"]:
            headers.append(("Connection", "close"))
            return sized(b"closing")
        case ["flood"]:
            start_response(status, headers)
            return Flood(errors)
        case ["events", count]:
            start_response(status, [("Content-Type", "text/event-stream")])
            return events(int(count))
        case ["fail"]:
            raise RuntimeError("the application failed on purpose")
        case _:
            return sized(b"hello from " + path.encode("latin-1"))
