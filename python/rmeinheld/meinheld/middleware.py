"""Meinheld's middleware."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .continuation import CLIENT_KEY, CONTINUATION_KEY, Client, Continuation

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

__all__ = ["CLIENT_KEY", "CONTINUATION_KEY", "ContinuationMiddleware", "WebSocketMiddleware"]


class ContinuationMiddleware:
    """Gives `app` a `Continuation` of each request, as `environ["meinheld.continuation"]`.

    That its client goes away while it is suspended is noticed where no other middleware around this one replaces
    `start_response`.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        client = environ.get(CLIENT_KEY)
        if client is None:
            client = environ[CLIENT_KEY] = Client(getattr(start_response, "client_has_gone", None))
        environ[CONTINUATION_KEY] = Continuation(client)
        return self.app(environ, start_response)


class WebSocketMiddleware:
    """Calls `app`: for programs written for Meinheld, whose WebSockets needed it.

    `environ["wsgi.websocket"]` is there without it, and as there it is missing from requests that are no handshake. The
    connection is closed when the application returns; what it returns is not sent.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if "wsgi.websocket" not in environ:
            return self.app(environ, start_response)
        # Meinheld accepts every handshake before the application runs.
        environ["wsgi.websocket"].accept()
        result = self.app(environ, start_response)
        # Nobody else can close what is not passed on (PEP 3333, "Specification Details").
        close = getattr(result, "close", None)
        if close is not None:
            close()
        return []
