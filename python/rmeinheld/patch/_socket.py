"""`socket`: the methods of `socket.socket` park; the class stays the same.

A descriptor keeps its flags. Calls are made with MSG_DONTWAIT, or with the timeout set to 0 for the length of one call.
Only a listening socket on which a coroutine accepts becomes non-blocking for good: other processes may accept too.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from _socket import getaddrinfo as _look_up
from collections.abc import Callable
from time import monotonic
from typing import Any

from .. import _rmeinheld
from ..coroutine import can_park, offload, sleep, wait_writable
from . import _state

_base: Any = socket.socket.__mro__[1]
"""`_socket.socket`, whose methods block."""

# A plain number: an operation on a member of `socket.MsgFlag` costs nearly as much as a system call.
_DONTWAIT = int(socket.MSG_DONTWAIT)

BACKLOG_FULL_PAUSE = 0.01
"""Seconds between two attempts to connect to a Unix socket whose backlog is full. No event reports free space."""


class Limit:
    """The timeout of one call on a socket.

    `wait` returns false when the timeout has passed. It raises TimeoutError only if that is thrown into the coroutine.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        seconds = sock.gettimeout()
        self._deadline = None if seconds is None else monotonic() + seconds

    def left(self) -> float | None:
        """Return the seconds that are left, at least 0; None without a timeout."""
        return None if self._deadline is None else max(self._deadline - monotonic(), 0.0)

    def wait(self, ready: Callable[..., bool]) -> bool:
        """Wait by `wait_readable` or `wait_writable`; return false if the timeout has passed. Parks.

        Raises OSError if the socket is closed.
        """
        fd = self._sock.fileno()
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        left = self.left()
        return left != 0 and ready(fd, left)


def attempt(sock: socket.socket, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call a blocking method without blocking: the timeout of the socket is 0 during the call.

    The timeout is read for each call, since other code may change it between two calls.
    """
    before = sock.gettimeout()
    _base.settimeout(sock, 0.0)
    try:
        return call(*arguments)
    finally:
        if sock.fileno() >= 0:
            _base.settimeout(sock, before)


def _blocks(sock: socket.socket, flags: int = 0) -> bool:
    """Whether a call would block the loop: in a coroutine, on a socket that is not non-blocking.

    Code may repeat a call that does not block until it succeeds, so in that case this may switch.
    """
    if not can_park():
        return False
    if sock.gettimeout() != 0 and not flags & _DONTWAIT:
        return True
    _rmeinheld.give_way_quietly()
    return False


def recvmsg(self: socket.socket, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    if not _blocks(self, flags):
        return _base.recvmsg(self, bufsize, ancbufsize, flags)
    return _rmeinheld.socket_repeat(self, False, _base.recvmsg, bufsize, ancbufsize, flags | _DONTWAIT)


def recvmsg_into(self: socket.socket, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
    if not _blocks(self, flags):
        return _base.recvmsg_into(self, buffers, ancbufsize, flags)
    buffers = list(buffers)  # An iterator would be exhausted at the second attempt.
    return _rmeinheld.socket_repeat(self, False, _base.recvmsg_into, buffers, ancbufsize, flags | _DONTWAIT)


def sendmsg(self: socket.socket, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> Any:
    if not _blocks(self, flags):
        return _base.sendmsg(self, buffers, ancdata, flags, address)
    buffers, ancdata = list(buffers), list(ancdata)  # As above.
    return _rmeinheld.socket_repeat(self, True, _base.sendmsg, buffers, ancdata, flags | _DONTWAIT, address)


def sendto(self: socket.socket, data: Any, *flags_and_address: Any) -> Any:
    *given, address = flags_and_address or (None,)
    flags = given[0] if len(given) == 1 and isinstance(given[0], int) else 0
    plain = isinstance(address, tuple | str | bytes) and given in ([], [flags])
    if not plain or not _blocks(self, flags):
        return _base.sendto(self, data, *flags_and_address)
    address = _resolved(self, address)
    return _rmeinheld.socket_repeat(self, True, _base.sendto, data, flags | _DONTWAIT, address)


def sendmsg_afalg(self: socket.socket, *arguments: Any, **keywords: Any) -> Any:
    if not _blocks(self):
        return _base.sendmsg_afalg(self, *arguments, **keywords)
    keywords["flags"] = keywords.get("flags", socket.MSG_MORE) | _DONTWAIT
    return _rmeinheld.socket_repeat(self, True, lambda sock: _base.sendmsg_afalg(sock, *arguments, **keywords))


def _accept(self: socket.socket) -> Any:
    """Return the descriptor and the address of a new connection, for `socket.accept`."""
    if self.gettimeout() == 0:
        _rmeinheld.give_way_quietly()
        return _base._accept(self)
    if not can_park():
        return _accept_in_a_thread(self)
    return _rmeinheld.socket_repeat(self, False, _accept_now)


def _accept_now(sock: socket.socket) -> Any:
    if sock.gettimeout() is None:
        os.set_blocking(sock.fileno(), False)
    return _base._accept(sock)


def _accept_in_a_thread(self: socket.socket) -> Any:
    while True:
        try:
            return _base._accept(self)
        except BlockingIOError:
            # A coroutine, perhaps of another process, has made the descriptor non-blocking.
            poller = _state.get_original("select", "poll")()
            poller.register(self.fileno(), select.POLLIN)
            poller.poll()


def connect(self: socket.socket, address: Any, /) -> None:
    if not _blocks(self):
        _base.connect(self, address)
        return
    error = _connect(self, address)
    if error is None:
        raise TimeoutError("timed out")
    if error:
        raise OSError(error, os.strerror(error))


def connect_ex(self: socket.socket, address: Any, /) -> int:
    if not _blocks(self):
        return int(_base.connect_ex(self, address))
    error = _connect(self, address)
    return errno.EWOULDBLOCK if error is None else error


def _connect(sock: socket.socket, address: Any) -> int | None:
    """Connect, and return the error number, 0 without an error. Return None when the timeout has passed."""
    limit = Limit(sock)
    address = _resolved(sock, address)
    while True:
        error = int(attempt(sock, _base.connect_ex, sock, address))
        if error in (errno.EINPROGRESS, errno.EALREADY, errno.EINTR):
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if limit.wait(wait_writable) else None
        if error != errno.EAGAIN or sock.family != socket.AF_UNIX:
            return error
        left = limit.left()
        if left == 0:
            return None
        sleep(BACKLOG_FULL_PAUSE if left is None else min(left, BACKLOG_FULL_PAUSE))


def _resolved(sock: socket.socket, address: Any) -> Any:
    """Return the address with a numeric host. With a name the C function would block in the resolver."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple) or len(address) < 2:
        return address
    host, port = address[:2]
    if not isinstance(host, str) or not host or host == "<broadcast>" or not isinstance(port, int):
        return address
    try:
        socket.inet_pton(sock.family, host.partition("%")[0])
    except OSError:
        # The function of C: like `connect` in C, this does not call a `socket.getaddrinfo` that a test has replaced.
        found = offload(_look_up, host, port, sock.family, sock.type, sock.proto)
        return found[0][4][:2] + address[2:]
    return address


def _sendfile_use_sendfile(self: socket.socket, file: Any, offset: int = 0, count: int | None = None) -> Any:
    """Send a file by sendfile(2), for `socket.sendfile`. On a non-blocking socket the original waits by a selector."""
    original = _state.get_original("socket", "socket._sendfile_use_sendfile")
    if not _blocks(self) or not os.get_blocking(self.fileno()):
        return original(self, file, offset, count)
    os.set_blocking(self.fileno(), False)
    try:
        return original(self, file, offset, count)
    finally:
        if self.fileno() >= 0:
            # The timeout may have changed during the call.
            os.set_blocking(self.fileno(), self.gettimeout() is None)


def _real_close(self: socket.socket, _ss: Any = _base) -> None:
    _state.closing(self.fileno(), lambda: _ss.close(self))


def detach(self: socket.socket) -> int:
    original = _state.get_original("socket", "socket.detach")
    return int(_state.closing(self.fileno(), lambda: original(self)))


METHODS: dict[str, Any] = {
    "recv": _rmeinheld.method(_rmeinheld.socket_recv),
    "recv_into": _rmeinheld.method(_rmeinheld.socket_recv_into),
    "send": _rmeinheld.method(_rmeinheld.socket_send),
    "sendall": _rmeinheld.method(_rmeinheld.socket_sendall),
    "recvfrom": _rmeinheld.method(_rmeinheld.socket_recvfrom),
    "recvfrom_into": _rmeinheld.method(_rmeinheld.socket_recvfrom_into),
    "recvmsg": recvmsg,
    "recvmsg_into": recvmsg_into,
    "sendmsg": sendmsg,
    "sendto": sendto,
    "sendmsg_afalg": sendmsg_afalg,
    "_accept": _accept,
    "connect": connect,
    "connect_ex": connect_ex,
    "_sendfile_use_sendfile": _sendfile_use_sendfile,
    "_real_close": _real_close,
    "detach": detach,
}


def patch() -> None:
    """Replace the methods of `socket.socket` that block."""
    for name, method in METHODS.items():
        if hasattr(socket.socket, name):
            if method.__doc__ is None and hasattr(_base, name):
                method.__doc__ = getattr(_base, name).__doc__
            _state.replace(socket.socket, name, method)
