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

    A suspended request ends when its client disconnects, unless another middleware around this one replaces
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
    """Accepts the WebSocket handshake and calls `app`, as Meinheld does.

    `environ["wsgi.websocket"]` exists without it, too. As in Meinheld, requests other than handshakes do not have it.
    The connection is closed when the application returns; its return value is ignored.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if "wsgi.websocket" not in environ:
            return self.app(environ, start_response)
        # Meinheld accepts every handshake before the application runs.
        environ["wsgi.websocket"].accept()
        result = self.app(environ, start_response)
        # The result is not passed on, so it is closed here (PEP 3333, "Specification Details").
        close = getattr(result, "close", None)
        if close is not None:
            close()
        return []
