"""TLS over sockets, made to park. `_ssl` imports this module when the application has imported `ssl`.

The C object in an `SSLSocket` waits according to the timeout of the socket. This module calls it with the timeout set
to 0, and then waits in the event loop until the socket is readable or writable, as OpenSSL asks.
"""

from __future__ import annotations

import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .._rmeinheld import give_way_quietly
from ..coroutine import can_park
from . import _state
from ._openssl import complete
from ._state import Finding

_context_base: Any = ssl.SSLContext.__mro__[1]


class _SSLConnection:
    """`SSLSocket._sslobj`: the C object, with calls that park."""

    __slots__ = ("_owner", "_real")

    def __init__(self, real: Any, owner: socket.socket) -> None:
        object.__setattr__(self, "_real", real)
        # The socket refers to this object. A strong reference back would leave unused sockets to the garbage collector.
        object.__setattr__(self, "_owner", weakref.ref(owner))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def do_handshake(self) -> None:
        """Perform the handshake."""
        self._complete("handshake", self._real.do_handshake)

    def read(self, *arguments: Any) -> Any:
        """Read, into a buffer or not."""
        return self._complete("read", self._real.read, *arguments)

    def write(self, data: Any, /) -> Any:
        """Write."""
        return self._complete("write", self._real.write, data)

    def shutdown(self) -> Any:
        """Send close_notify, and wait for the peer's."""
        return self._complete("shutdown", self._real.shutdown)

    def _complete(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        sock = self._owner()
        # Without its socket, the C object raises an error itself.
        if sock is None or not can_park():
            return call(*arguments)
        if sock.gettimeout() == 0:
            give_way_quietly()
            return call(*arguments)
        return complete(sock, what, partial(call, *arguments), ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _wrap_socket(self: ssl.SSLContext, sock: Any, *arguments: Any, **keywords: Any) -> Any:
    """Make the C object of an `SSLSocket`."""
    return _SSLConnection(_context_base._wrap_socket(self, sock, *arguments, **keywords), sock)


def replace() -> None:
    """Make the sockets of every context park."""
    _state.replace(ssl.SSLContext, "_wrap_socket", _wrap_socket)


def adopt() -> Iterator[Finding]:
    """Make the sockets that were made before the patch park."""
    early = [each for each in _state.instances(ssl.SSLSocket) if each._sslobj is not None]
    for sock in early:
        sock._sslobj = _SSLConnection(sock._sslobj, sock)
    if early:
        yield Finding("ssl", f"{len(early)} TLS connections had been made before the patch", fixed=True)
