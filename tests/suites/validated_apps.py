"""Applications for the validators: `/OUTPUT/INPUT` says how one answers, and how it reads the request."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from wsgiref.validate import validator

from webtest.lint import middleware

if TYPE_CHECKING:
    from wsgiref.types import InputStream, StartResponse, WSGIEnvironment

PLAIN = [("Content-Type", "text/plain")]


# --- how the request is read -----------------------------------------------------------------------------------------


def sized(source: InputStream) -> bytes:
    """Reads in pieces of a size, to the end and once more."""
    data = b""
    while piece := source.read(7):
        data += piece
    return data + source.read(7)


def lines(source: InputStream) -> bytes:
    """Reads line by line."""
    data = b""
    while line := source.readline():
        data += line
    return data


def pieces_of_lines(source: InputStream) -> bytes:
    """Reads line by line, with a limit that cuts some lines."""
    data = b""
    while line := source.readline(4):
        data += line
    return data


INPUTS: dict[str, Callable[[InputStream], bytes]] = {
    "whole": lambda source: source.read(-1),
    "sized": sized,
    "readline": lines,
    "readline-sized": pieces_of_lines,
    "readlines": lambda source: b"".join(source.readlines()),
    "readlines-hint": lambda source: b"".join(source.readlines(1)) + source.read(1000),
    "iterated": lambda source: b"".join(source),
    "mixed": lambda source: source.read(3) + source.readline() + b"".join(source),
    "unread": lambda source: b"",
}


# --- how the response is given ---------------------------------------------------------------------------------------

type Output = Callable[[WSGIEnvironment, StartResponse, bytes], Iterable[bytes]]


class Closing:
    """An iterable with `close`, which logs that it was called."""

    def __init__(self, environ: WSGIEnvironment, parts: list[bytes]) -> None:
        self._errors = environ["wsgi.errors"]
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        self._errors.write("closed\n")


def as_list(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return [data]


def with_length(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", str(len(data)))])
    return [data[:1], data[1:]]


def with_empty_items(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return [b"", data[:1], b"", b"", data[1:], b""]


def without_items(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", "0")])
    return []


def as_generator(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterator[bytes]:
    """Calls `start_response` at the first item."""
    start_response("200 OK", PLAIN)
    yield b""
    yield data[:1]
    yield data[1:]


def as_iterable(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return Closing(environ, [data[:1], data[1:]])


def written(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    write = start_response("200 OK", PLAIN)
    write(data[:1])
    write(data[1:])
    return []


def written_and_returned(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)(data[:1])
    return [data[1:]]


def as_file(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(data), 5)
    return wrapped


def replaced(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    """Replaces status and fields after an error, before anything was sent."""
    start_response("200 OK", [*PLAIN, ("X-Replaced", "no")])
    try:
        raise LookupError("replaced")
    except LookupError:
        start_response("404 Not Found", PLAIN, sys.exc_info())
    return [data]


def without_content(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("204 No Content", [("X-None", "")])
    return []


def not_modified(environ: WSGIEnvironment, start_response: StartResponse, data: bytes) -> Iterable[bytes]:
    start_response("304 Not Modified", [("ETag", '"a"')])
    return []


OUTPUTS: dict[str, tuple[Output, int]] = {
    "list": (as_list, 200),
    "length": (with_length, 200),
    "empty-items": (with_empty_items, 200),
    "no-items": (without_items, 200),
    "generator": (as_generator, 200),
    "iterable": (as_iterable, 200),
    "write": (written, 200),
    "write-and-return": (written_and_returned, 200),
    "file": (as_file, 200),
    "exc-info": (replaced, 404),
    "no-content": (without_content, 204),
    "not-modified": (not_modified, 304),
}
"""The function and the status of each output, by name."""

NO_BODY = ("no-items", "no-content", "not-modified")
"""Outputs with an empty body."""


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the body that was read, in brackets."""
    errors = environ["wsgi.errors"]
    errors.write("called ")
    errors.writelines(["with ", environ["PATH_INFO"], "\n"])
    errors.flush()
    output, how = environ["PATH_INFO"].strip("/").split("/")
    data = b"<" + INPUTS[how](environ["wsgi.input"]) + b">"
    return OUTPUTS[output][0](environ, start_response, data)


validated = validator(application)
linted = middleware(application)
both = validator(middleware(application))
