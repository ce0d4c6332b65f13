"""The request and response objects that Gunicorn's hooks and loggers read, made from a WSGI environ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIEnvironment

__all__ = ["Request", "Response", "request_of"]

_KEY: Final = "rmeinheld.gunicorn_request"


class Request:
    """The request as `pre_request`, `post_request` and `Logger.access` take it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.uri: str = environ["RAW_URI"]
        target = self.uri
        if not target.startswith("/"):
            # The target may be a whole URL (RFC 9112 3.2.2).
            target = urlsplit(target)._replace(scheme="", netloc="").geturl()
        self.path, _, self.query = target.partition("?")
        self.fragment = ""
        self.scheme: str = environ["wsgi.url_scheme"]
        self.version = tuple(int(number) for number in environ["SERVER_PROTOCOL"].partition("/")[2].split("."))
        self.headers: list[tuple[str, str]] = []
        """Pairs of name and value. Names are in capitals, as in Gunicorn; fields of one name are joined."""
        for key, value in environ.items():
            if key.startswith("HTTP_"):
                self.headers.append((key[5:].replace("_", "-"), value))
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                self.headers.append((key.replace("_", "-"), value))
        self.trailers: list[tuple[str, str]] = []
        self.body: Any = environ["wsgi.input"]
        address = environ.get("REMOTE_ADDR", "")
        self.remote_addr: Any = (address, int(environ.get("REMOTE_PORT") or 0)) if address else ""
        """Address and port of the client; empty on a Unix socket."""
        self.peer_addr = self.remote_addr
        self.proxy_protocol_info: dict[str, Any] | None = None

    def change(self, environ: WSGIEnvironment, hook: Callable[[Request], object]) -> None:
        """Call `hook(self)`, then copy its changes into the environ, as if the client had sent them."""
        before = self._keys()
        hook(self)
        after = self._keys()
        for key in before.keys() - after.keys():
            environ.pop(key, None)
        environ.update({key: value for key, value in after.items() if value != before.get(key)})

    def _keys(self) -> dict[str, str]:
        """Environ keys that follow from attributes that a hook may change."""
        keys = {
            "REQUEST_METHOD": self.method,
            "RAW_URI": self.uri,
            "QUERY_STRING": self.query,
            "PATH_INFO": unquote(self.path, "latin-1"),
            "wsgi.url_scheme": self.scheme,
        }
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key
            keys[key] = f"{keys[key]},{value}" if key in keys else value
        return keys


class Response:
    """The response as `post_request` and `Logger.access` take it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.status_code: int = environ["STATUS_CODE"]
        # If the client left before the response, there is no status line; loggers need a number.
        self.status: str = environ["rmeinheld.status"] or str(self.status_code)
        self.headers: list[tuple[str, str]] = environ["rmeinheld.response_headers"]
        self.sent: int = environ["SEND_BYTES"]


def request_of(environ: WSGIEnvironment) -> Request:
    """Return the `Request` of this environ: the same object for every caller, unless the application removed it."""
    request = environ.get(_KEY)
    if not isinstance(request, Request):
        request = environ[_KEY] = Request(environ)
    return request
