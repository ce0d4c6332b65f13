"""`ssl`: TLS over sockets parks; `SSLContext` and `SSLSocket` stay what they are.

The C object below an `SSLSocket` waits by the timeout of its socket. Here every call on it is made with the timeout set
to 0, and what it then wants (to read, to write) is waited for in the event loop.
"""

from __future__ import annotations

import gc
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from .._rmeinheld import give_way, give_way_quietly
from ..coroutine import can_park, wait_readable, wait_writable
from . import _state
from ._socket import Limit, attempt
from ._state import Finding

_context_base: Any = ssl.SSLContext.__mro__[1]


class _SSLConnection:
    """What `SSLSocket._sslobj` is: the C object, with calls that park."""

    __slots__ = ("_owner", "_real")

    def __init__(self, real: Any, owner: socket.socket) -> None:
        object.__setattr__(self, "_real", real)
        # Its socket has it: with a reference back, only a collection would close what nobody has any more.
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
        """Say goodbye, and wait for the peer's."""
        return self._complete("shutdown", self._real.shutdown)

    def _complete(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        sock = self._owner()
        # Without its socket, the C object says so itself.
        if sock is None or not can_park():
            return call(*arguments)
        if sock.gettimeout() == 0:
            give_way_quietly()
            return call(*arguments)
        give_way()
        limit = Limit(sock)
        while True:
            try:
                return attempt(sock, call, *arguments)
            except ssl.SSLWantReadError:
                wanted = wait_readable
            except ssl.SSLWantWriteError:
                wanted = wait_writable
            if not limit.wait(wanted):
                raise TimeoutError(f"The {what} operation timed out")


def _wrap_socket(self: ssl.SSLContext, sock: Any, *arguments: Any, **keywords: Any) -> Any:
    """What `SSLSocket` makes its C object with."""
    return _SSLConnection(_context_base._wrap_socket(self, sock, *arguments, **keywords), sock)


def patch() -> Iterator[Finding]:
    """Have every context give sockets that park, and those that there are already park too."""
    _state.replace(ssl.SSLContext, "_wrap_socket", _wrap_socket)
    early = [each for each in gc.get_objects() if isinstance(each, ssl.SSLSocket) and each._sslobj is not None]  # type: ignore[attr-defined]
    for sock in early:
        sock._sslobj = _SSLConnection(sock._sslobj, sock)  # type: ignore[attr-defined]
    if early:
        yield Finding("ssl", f"{len(early)} TLS connections had been made before", fixed=True)
