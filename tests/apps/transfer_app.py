"""The application behind the tests with proxies and client libraries: bodies in every framing, and ways to fail."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import random
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PIECE = 50_000
"""Bytes of an item of a body that is sent in items."""

PACKED = gzip.compress(b"the same again " * 1000, mtime=0)
"""The answer of /gzip."""


@functools.cache
def content(size: int) -> bytes:
    """Bytes without a pattern in which a mistake could hide, the same in every process."""
    return random.Random(size).randbytes(size)


def pieces(data: bytes) -> Iterator[bytes]:
    """`data` in items."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


class Endless:
    """Never ends by itself; reports its close()."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ = environ

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"endless " * 8192

    def close(self) -> None:
        say(self.environ, f"closed {self.environ['PATH_INFO']}")


def failing(data: bytes) -> Iterator[bytes]:
    """Half of `data`, then an exception."""
    yield from pieces(data[: len(data) // 2])
    raise RuntimeError("failed in the middle of the body, on purpose")


def say(environ: WSGIEnvironment, text: str) -> None:
    environ["wsgi.errors"].write(text + "\n")
    environ["wsgi.errors"].flush()


def digest(environ: WSGIEnvironment) -> bytes:
    """Size and SHA-256 of the request's body, and how it was framed, as JSON."""
    size, sha256 = 0, hashlib.sha256()
    while data := environ["wsgi.input"].read(65536):
        if size == 0:
            say(environ, f"reading {environ['PATH_INFO']}")
        size += len(data)
        sha256.update(data)
    found = {
        "size": size,
        "sha256": sha256.hexdigest(),
        "length": environ.get("CONTENT_LENGTH"),
        "chunked": "HTTP_TRANSFER_ENCODING" in environ,
    }
    return json.dumps(found).encode()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "application/octet-stream")]
    say(environ, f"served {environ['REQUEST_METHOD']} {path}")

    def start(status: str = "200 OK", *more: tuple[str, str]) -> None:
        start_response(status, [*headers, *more])

    def sized(body: bytes, *more: tuple[str, str]) -> list[bytes]:
        start("200 OK", ("Content-Length", str(len(body))), *more)
        return [body]

    match path.split("/")[1:]:
        case ["environ"]:
            plain = {key: value for key, value in environ.items() if isinstance(value, str)}
            return sized(json.dumps(plain).encode())
        case ["digest", *_]:
            return sized(digest(environ))
        case ["sized", size]:
            return sized(content(int(size)))
        case ["chunked", size]:
            start()
            return pieces(content(int(size)))
        case ["file", size]:
            start("200 OK", ("Content-Length", size))
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(content(int(size))))
            return wrapped
        case ["file"]:
            name = urllib.parse.parse_qs(environ["QUERY_STRING"])["name"][0]
            start()
            wrapped = environ["wsgi.file_wrapper"](open(name, "rb"))
            return wrapped
        case ["gzip"]:
            return sized(PACKED, ("Content-Encoding", "gzip"))
        case ["close"]:
            return sized(b"closing", ("Connection", "close"))
        case ["status", code]:
            start(f"{code} Whatever")
            return [] if code in ("204", "304") else [f"a body with {code}".encode()]
        case ["endless", *_]:
            start()
            return Endless(environ)
        case ["fail"]:
            raise RuntimeError("failed before the response, on purpose")
        case ["fail-sized", size]:
            start("200 OK", ("Content-Length", size))
            return failing(content(int(size)))
        case ["fail-chunked", size]:
            start()
            return failing(content(int(size)))
        case _:
            return sized(b"hello from " + path.encode("latin-1"))
