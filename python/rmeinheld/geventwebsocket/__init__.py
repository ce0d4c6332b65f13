"""The names of gevent-websocket that applications import, for code written for it. Nothing here needs gevent.

    from rmeinheld.geventwebsocket import WebSocketError

`environ["wsgi.websocket"]` has `receive()`, `send(message, binary)`, `close(code, message)` and `closed` as there.
gevent-websocket's own server, handler, `Resource` and `WebSocketApplication` have no counterpart: any WSGI application
has `environ["wsgi.websocket"]`.
"""

from __future__ import annotations

from .exceptions import WebSocketError

__all__ = ["WebSocketError"]
