"""Calls of OpenSSL, made to park. `ssl` and pyOpenSSL share them; neither is imported here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from .._rmeinheld import give_way
from ..coroutine import wait_readable, wait_writable
from ._socket import Limit, attempt


def complete(
    sock: socket.socket,
    operation: str,
    call: Callable[[], Any],
    want_read: type[Exception],
    want_write: type[Exception],
) -> Any:
    """Repeat a call of OpenSSL until it needs neither to read nor to write first. Parks.

    `want_read` and `want_write` are the exceptions by which it asks for either.

    Raises TimeoutError, which names the operation, when the timeout of the socket has passed.
    """
    give_way()
    limit = Limit(sock)
    while True:
        try:
            return attempt(sock, call)
        except want_read:
            ready = wait_readable
        except want_write:
            ready = wait_writable
        if not limit.wait(ready):
            raise TimeoutError(f"The {operation} operation timed out")
