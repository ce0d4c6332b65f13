"""pyOpenSSL: a connection whose socket has no timeout parks.

OpenSSL reads and writes the descriptor itself, so that the methods of a patched socket do not help. Each call is made
with the timeout of the socket set to 0. The coroutine then waits until the socket is readable or writable, as OpenSSL
asks. A connection whose socket has a timeout raises `WantReadError` and `WantWriteError`, with or without the patch.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .._rmeinheld import give_way_quietly
from ..coroutine import can_park
from . import _state
from ._openssl import complete
from ._state import Finding

BLOCKING = ("do_handshake", "read", "recv", "recv_into", "send", "shutdown", "write")
"""Methods of `OpenSSL.SSL.Connection` that read or write the descriptor once."""


def set_up(module: ModuleType) -> Finding:
    """Replace the methods of `OpenSSL.SSL.Connection` that block."""
    connection = module.Connection
    for name in BLOCKING:
        _state.replace(connection, name, _parking(getattr(connection, name), module))
    _state.replace(connection, "sendall", _sending_all(connection.sendall))
    return Finding(module.__name__, "waits through rmeinheld", fixed=True)


def _blocking_socket(connection: Any) -> socket.socket | None:
    """The socket on which a call would block the loop; None if a call would not."""
    sock = connection._socket
    if not isinstance(sock, socket.socket) or not can_park():
        return None
    if sock.gettimeout() is not None:
        give_way_quietly()
        return None
    return sock


def _parking(original: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        sock = _blocking_socket(self)
        if sock is None:
            return original(self, *arguments, **keywords)
        once = functools.partial(original, self, *arguments, **keywords)
        return complete(sock, original.__name__, once, module.WantReadError, module.WantWriteError)

    return call


def _sending_all(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def sendall(self: Any, buf: Any, flags: int = 0) -> Any:
        if _blocking_socket(self) is None:
            return original(self, buf, flags)
        # The original loses count of what it has sent when the socket's buffer is full.
        rest = memoryview(buf.encode() if isinstance(buf, str) else buf).cast("B")
        sent = 0
        while sent < len(rest):
            sent += self.send(rest[sent:], flags)
        return sent

    return sendall
