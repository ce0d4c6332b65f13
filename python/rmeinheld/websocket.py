"""WebSockets (RFC 6455) in plain WSGI: `environ["wsgi.websocket"]`, without any middleware.

    def app(environ, start_response):
        websocket = environ.get("wsgi.websocket")
        if websocket is None:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"This is an echo over WebSocket.\\n"]
        for message in websocket:
            websocket.send(message)
        return []

Every valid handshake has it. The first call of a method accepts the connection; an application that does not want it
answers the request in the ordinary way. The limits are settings whose names begin with `websocket_`.

`websocket_compression` compresses messages where the client offers permessage-deflate (RFC 7692), as browsers do;
`accept(compression=...)` chooses for one route. "on" compresses each message of 256 bytes or more for itself. An idle
connection then keeps nothing, and a broadcast is compressed once for all. "takeover" makes short messages much smaller,
since each refers to those before it. The connection keeps the last 4 KiB in each direction, or 32 KiB of the client's
if the client does not let the server choose. A broadcast is compressed without the context of its members.

A message that would not get shorter is sent as it is. `websocket_max_message_size` is the limit for the message after
it is inflated. Do not compress secrets together with text that others choose: the length reveals the secret (BREACH).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._rmeinheld import ConnectionClosed, Members, WebSocket, WebSocketError, broadcast

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

__all__ = ["ConnectionClosed", "Members", "WebSocket", "WebSocketError", "WebSocketWSGI", "broadcast"]


class WebSocketWSGI:
    """A decorator: makes a WSGI application of `handler(websocket)`, which serves one WebSocket until it returns.

        @WebSocketWSGI
        def echo(websocket):
            for message in websocket:
                websocket.send(message)

    A request that is not a valid handshake gets 400, as in Meinheld and eventlet.
    """

    def __init__(self, handler: Callable[[WebSocket], object]) -> None:
        self.handler = handler
        functools.update_wrapper(self, handler)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        websocket = environ.get("wsgi.websocket")
        if websocket is None:
            body = b"This address is for WebSockets.\n"
            headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
            start_response("400 Bad Request", headers)
            return [body]
        self.handler(websocket)
        return []
