"""The exceptions of `geventwebsocket.exceptions`.

`WebSocketError` is that of `rmeinheld.websocket`, an OSError in both packages. A client that breaks the protocol raises
nothing in the application, here as there: `receive()` returns None.
"""

from __future__ import annotations

from .._rmeinheld import WebSocketError

__all__ = ["FrameTooLargeException", "ProtocolError", "WebSocketError"]


class ProtocolError(WebSocketError):
    """For `except` clauses. Never raised: the server closes the connection with 1002."""


class FrameTooLargeException(ProtocolError):
    """For `except` clauses. Never raised: the server closes the connection with 1009."""
