"""The application behind the tests of PEP 3333: one small application per path, many of which break a rule."""

from __future__ import annotations

import ast
import contextvars
import gzip
import hashlib
import io
import os
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PLAIN = [("Content-Type", "text/plain")]

Application = Callable[..., Any]
APPLICATIONS: dict[str, Application] = {}


def route(function: Application) -> Application:
    """Serve `function` under its own name, with dashes."""
    APPLICATIONS[function.__name__.replace("_", "-")] = function
    return function


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    return APPLICATIONS[environ["PATH_INFO"].strip("/")](environ, start_response)


def parameters(environ: WSGIEnvironment) -> dict[str, str]:
    """The query as a dictionary."""
    return dict(urllib.parse.parse_qsl(environ["QUERY_STRING"], encoding="latin-1"))


def say(environ: WSGIEnvironment, text: str) -> None:
    """Write a line to the error stream of the request."""
    environ["wsgi.errors"].write(text + "\n")
    environ["wsgi.errors"].flush()


class Closing:
    """An iterable over `items` that reports its close(); an item that is an exception is raised instead."""

    def __init__(self, environ: WSGIEnvironment, items: Iterable[bytes | Exception], fault: str = "") -> None:
        self.environ = environ
        self.items = items
        self.fault = fault

    def __iter__(self) -> Iterator[bytes]:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        say(self.environ, f"closed {self.environ['PATH_INFO']}?{self.environ['QUERY_STRING']}")
        if self.fault:
            raise RuntimeError(self.fault)


# --- environ ---------------------------------------------------------------------------------------------------------


@route
def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return [b"hello"]


@route
def environ_types(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    found = {
        key: (type(value).__name__, value if isinstance(value, str | int | tuple) else None)
        for key, value in environ.items()
    }
    return [repr((type(environ).__name__, found)).encode()]


@route
def spoil_environ(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    before = sorted(key for key in environ if key.startswith("spoiled")), environ["SERVER_NAME"]
    environ["spoiled"] = True
    environ["SERVER_NAME"] = "spoiled"
    return [repr(before).encode()]


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


@route
def context(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    before = VARIABLE.get()
    VARIABLE.set(environ["QUERY_STRING"])

    def body() -> Iterator[bytes]:
        try:
            yield f"{before} then {VARIABLE.get()}".encode()
            VARIABLE.set(VARIABLE.get() + "!")
        finally:
            say(environ, f"closed with {VARIABLE.get()}")

    return body()


# --- start_response --------------------------------------------------------------------------------------------------


@route
def twice(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    start_response("201 Created", PLAIN)
    return [b"never"]


@route
def twice_caught(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    try:
        start_response("201 Created", PLAIN)
    except Exception as error:
        return [type(error).__name__.encode()]
    return [b"no error"]


@route
def exc_info_before_headers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("X-Old", "old"), ("Content-Length", "3")])
    try:
        raise KeyError("boom")
    except KeyError:
        start_response("503 Replaced", [*PLAIN, ("X-New", "new")], sys.exc_info())
    return [b"replaced"]


@route
def exc_info_after_empty_items(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [*PLAIN, ("X-Old", "old")])
    yield b""
    yield b""
    try:
        raise KeyError("boom")
    except KeyError:
        start_response("503 Replaced", [*PLAIN, ("X-New", "new")], sys.exc_info())
    yield b"replaced"


@route
def exc_info_after_headers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    yield b"already sent"
    try:
        raise KeyError("boom after the headers")
    except KeyError:
        start_response("503 Too late", PLAIN, sys.exc_info())
    yield b"never sent"


@route
def exc_info_as_first_call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    try:
        raise KeyError("boom")
    except KeyError:
        start_response("500 Mine", PLAIN, sys.exc_info())
    return [b"mine"]


@route
def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("202 Late", [*PLAIN, ("X-Late", "yes")])
    yield b"late"


@route
def late_and_empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("202 Late", PLAIN)
    yield from ()


@route
def never(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return [b"no start_response"]


@route
def never_and_empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return []


@route
def bad_status(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(ast.literal_eval(parameters(environ)["value"]), PLAIN)
    return [b"never"]


@route
def bad_headers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", ast.literal_eval(parameters(environ)["value"]))
    return [b"never"]


@route
def headers_from(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", eval(parameters(environ)["expression"]))
    return [b"hello"]


@route
def bad_result(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", PLAIN)
    return ast.literal_eval(parameters(environ)["value"])


@route
def bad_item_late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", PLAIN)
    return iter([b"already sent", "text"])


@route
def wrong_arguments(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response()  # type: ignore[call-arg]
    return [b"never"]


@route
def headers_of_the_application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    cookies = [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X-Latin", "caf\xe9"), ("X-Empty", "")]
    start_response("299 caf\xe9", [*PLAIN, *cookies])
    return [b"x"]


@route
def hop_by_hop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=5")])
    return [b"one", b"two"]


@route
def hop_by_hop_fields(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    names = ["Keep-Alive", "TE", "Trailer", "Upgrade", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization"]
    start_response("200 OK", [*PLAIN, *((name, "x") for name in names), ("Connection", "X-Old"), ("X-Old", "old")])
    return [b"one"]


@route
def with_status(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response(parameters(environ)["status"], [*PLAIN, *length_of(environ)])
    return [b"12345"]


# --- write() ---------------------------------------------------------------------------------------------------------


@route
def write_then_iterate(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [*PLAIN, *length_of(environ)])
    write(b"one ")
    write(b"")
    write(b"two ")
    return [b"", b"three ", b"four"]


@route
def write_only(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [*PLAIN, *length_of(environ)])
    write(b"only")
    return []


@route
def write_text(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)("text")  # type: ignore[arg-type]
    return []


@route
def write_then_fail(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)(b"already sent")
    raise RuntimeError("failed after write()")


@route
def start_again_after_write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)(b"already sent")
    try:
        raise KeyError("boom after write()")
    except KeyError:
        start_response("503 Too late", PLAIN, sys.exc_info())
    return [b"never"]


def length_of(environ: WSGIEnvironment) -> list[tuple[str, str]]:
    length = parameters(environ).get("length")
    return [("Content-Length", length)] if length else []


# --- bodies and close() ----------------------------------------------------------------------------------------------


@route
def closing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return Closing(environ, [b"one", b"two"])


@route
def closing_without_a_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return Closing(environ, [])


@route
def closing_after_an_error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    return Closing(environ, [RuntimeError("failed in the iteration")])


@route
def closing_after_a_late_error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, *length_of(environ)])
    return Closing(environ, [b"one", RuntimeError("failed in the iteration")])


@route
def closing_with_an_error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("Content-Length", "3")])
    return Closing(environ, [b"one"], "failed in close()")


@route
def closing_a_bad_item(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", PLAIN)
    items: list[Any] = ["text"]
    return Closing(environ, items)


@route
def closing_unstarted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return Closing(environ, [b"no start_response"])


class ClosingList(list[bytes]):
    """A list with a close(), as middlewares make them."""

    environ: WSGIEnvironment

    def close(self) -> None:
        say(self.environ, f"closed {self.environ['PATH_INFO']}?{self.environ['QUERY_STRING']}")


@route
def closing_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    result = ClosingList([b"one"])
    result.environ = environ
    return result


@route
def closing_generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    try:
        while True:
            yield b"endless" * 1000
    finally:
        say(environ, f"closed {environ['PATH_INFO']}?{environ['QUERY_STRING']}")


@route
def sized(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """`length` as Content-Length, and `items` of one byte each."""
    start_response("200 OK", [*PLAIN, *length_of(environ)])
    return (b"x" for _ in range(int(parameters(environ)["items"])))


@route
def sized_list(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, *length_of(environ)])
    return [b"x" * int(parameters(environ)["items"])]


@route
def sized_write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [*PLAIN, *length_of(environ)])
    for _ in range(int(parameters(environ)["items"])):
        write(b"x")
    return []


@route
def fail(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise RuntimeError("a secret that must not reach the client")


@route
def fail_after_start(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN, ("X-Old", "old"), ("Content-Length", "1000")])
    raise RuntimeError("a secret that must not reach the client")


@route
def leave(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    sys.exit("an application must not end the server")


# --- wsgi.input and wsgi.errors --------------------------------------------------------------------------------------


def replay(source: Any, script: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call methods of a file, `(name, *arguments)` each, and return their results; "next" takes one line."""
    results: list[Any] = []
    for name, *arguments in script:
        if name == "next":
            results.append(next(iter(source), None))
        else:
            results.append(getattr(source, name)(*arguments))
    return results


@route
def input(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    script = ast.literal_eval(parameters(environ)["script"])
    return [repr(replay(environ["wsgi.input"], script)).encode()]


def replay_digests(source: Any, sizes: Iterable[int | None]) -> list[tuple[int, str] | str]:
    """Read `sizes`, and return the length and the digest of each piece, or the name of the exception."""
    results: list[tuple[int, str] | str] = []
    for size in sizes:
        try:
            piece = source.read(size)
        except Exception as error:
            results.append(type(error).__name__)
        else:
            assert type(piece) is bytes
            results.append((len(piece), hashlib.sha256(piece).hexdigest()))
    return results


@route
def input_digests(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    found = replay_digests(environ["wsgi.input"], ast.literal_eval(parameters(environ)["sizes"]))
    say(environ, f"digests: {found}")
    return [repr(found).encode()]


@route
def input_terminated(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    source = environ["wsgi.input"]
    found = environ.get("wsgi.input_terminated"), source.read(), source.read(), source.readline(), source.read(5)
    return [repr(found).encode()]


@route
def input_in_the_iteration(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", PLAIN)
    yield b"start "
    while data := environ["wsgi.input"].read(4):
        yield data
    yield b" end"


@route
def input_with_bad_arguments(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    source = environ["wsgi.input"]
    names = []
    for arguments in (("text",), (1.5,), (1, 2)):
        try:
            source.read(*arguments)
        except Exception as error:
            names.append(type(error).__name__)
    return [repr((names, source.read())).encode()]


@route
def errors(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", PLAIN)
    stream = environ["wsgi.errors"]
    stream.write("errors: one caf\xe9 \u20ac\n")
    stream.writelines(["errors: two\n", "errors: three\n"])
    print("errors: four", file=stream)
    stream.flush()
    return [b"x"]


# --- wsgi.file_wrapper -----------------------------------------------------------------------------------------------


class Reading:
    """A file-like object with nothing but read() and close()."""

    def __init__(self, environ: WSGIEnvironment, data: bytes) -> None:
        self.environ = environ
        self.stream = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.stream.read(size)

    def close(self) -> None:
        say(self.environ, f"closed {self.environ['PATH_INFO']}?{self.environ['QUERY_STRING']}")


class Reported(io.FileIO):
    """A file that reports its close()."""

    environ: WSGIEnvironment | None = None

    def close(self) -> None:
        if self.environ is not None and not self.closed:
            say(self.environ, f"closed {self.environ['PATH_INFO']}?{self.environ['QUERY_STRING']}")
        super().close()


def opened(environ: WSGIEnvironment, kind: str, path: str) -> Any:
    """The file at `path` in one of several forms, which all read as its content."""
    match kind:
        case "buffered":
            return open(path, "rb")
        case "unbuffered":
            return open(path, "rb", buffering=0)
        case "reported":
            raw = Reported(path)
            raw.environ = environ
            return raw
        case "bytesio":
            with open(path, "rb") as file:
                return io.BytesIO(file.read())
        case "reading":
            with open(path, "rb") as file:
                return Reading(environ, file.read())
        case "partly-read":
            file = open(path, "rb")
            file.read(10)
            return file
        case "pipe":
            reader, writer = os.pipe()
            with open(path, "rb") as file, os.fdopen(writer, "wb") as end:
                end.write(file.read(30_000))
            return os.fdopen(reader, "rb")
        case "gzip":
            with open(path, "rb") as file, gzip.open(path + ".gz", "wb") as packed:
                packed.write(file.read())
            return gzip.open(path + ".gz", "rb")
    raise ValueError(kind)


@route
def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    query = parameters(environ)
    file = opened(environ, query["kind"], query["path"])
    if "seek" in query:
        file.seek(int(query["seek"]))
    start_response("200 OK", [("Content-Type", "application/octet-stream"), *length_of(environ)])
    wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](file, int(query.get("block", 8192)))
    if "iterated" in query:
        return [b"".join(wrapper)]
    return wrapper


@route
def file_after_write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "application/octet-stream"), *length_of(environ)])
    write(b"before ")
    wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](open(parameters(environ)["path"], "rb"))
    return wrapper


# --- wsgiref.validate ------------------------------------------------------------------------------------------------


def exercise(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes] | list[bytes]:
    """Uses every method that PEP 3333 gives an application; to be wrapped by wsgiref.validate.validator."""
    source, errors = environ["wsgi.input"], environ["wsgi.errors"]
    errors.write("exercise: written\n")
    errors.writelines(["exercise: lines\n"])
    errors.flush()
    read = [source.read(2), source.readline(), source.readline(3), source.readlines(4), *source, source.read(10)]
    path = environ["PATH_INFO"]
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-Path", path)])
    if path == "/write":
        write(b"written ")
        write(b"twice ")
    if path == "/replaced":
        try:
            raise LookupError("replaced")
        except LookupError:
            start_response("404 Replaced", [("Content-Type", "text/plain")], sys.exc_info())
    if path == "/generator":
        return (item for item in (b"", b"generated ", repr(read).encode()))
    if path == "/file":
        wrapped: list[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(repr(read).encode()), 3)
        return wrapped
    return [repr(read).encode()]
