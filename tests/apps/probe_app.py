"""The application behind the public probes of HTTP: it echoes bodies, and does what a careful origin server does.

The probes judge the whole of a server. This application does its part of that: methods that it does not
know, OPTIONS, TRACE, cookies, validators and conditional requests.
"""

from __future__ import annotations

import email.utils
from collections.abc import Iterable
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

ALLOW = ("Allow", "GET, HEAD, POST, OPTIONS")
ETAG = '"probe"'
LAST_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Echo the body of a POST, the fields below /echo, the cookies below /cookie, or say OK."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if method == "OPTIONS":
        start_response("204 No Content", [ALLOW])
        return []
    if method in ("DELETE", "TRACE", "PUT", "PATCH"):
        return answer(start_response, "405 Method Not Allowed", b"no such method here", [ALLOW])
    if method not in ("GET", "HEAD", "POST"):
        return answer(start_response, "501 Not Implemented", b"no such method")
    if path == "/echo":
        return answer(start_response, "200 OK", fields_of(environ).encode("latin-1"))
    if path == "/cookie":
        return answer(start_response, "200 OK", cookies_of(environ).encode("latin-1"))
    if method == "POST":
        return answer(start_response, "200 OK", body)
    validators = [("ETag", ETAG), ("Last-Modified", LAST_MODIFIED)]
    if is_unchanged(environ):
        start_response("304 Not Modified", validators)
        return []
    return answer(start_response, "200 OK", b"OK", validators)


def answer(
    start_response: StartResponse, status: str, body: bytes, headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]


def fields_of(environ: WSGIEnvironment) -> str:
    """The fields of the request, a line each, as far as an environ still shows them."""
    pairs = [(key.removeprefix("HTTP_"), value) for key, value in environ.items() if key.startswith("HTTP_")]
    pairs += [(key, environ[key]) for key in ("CONTENT_LENGTH", "CONTENT_TYPE") if environ.get(key)]
    return "".join(f"{name.replace('_', '-').title()}: {value}\n" for name, value in pairs)


def cookies_of(environ: WSGIEnvironment) -> str:
    try:
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    except CookieError:
        return ""
    return "".join(f"{name}={morsel.value}\n" for name, morsel in cookies.items())


def is_unchanged(environ: WSGIEnvironment) -> bool:
    """Is the client's copy still good (RFC 9110 13.2.2)? A date in the future, or that is none, is ignored."""
    if (tags := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return tags == "*" or ETAG in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
    try:
        since = email.utils.parsedate_to_datetime(environ.get("HTTP_IF_MODIFIED_SINCE", ""))
    except ValueError:
        return False
    return email.utils.parsedate_to_datetime(LAST_MODIFIED) <= since <= datetime.now(UTC)
