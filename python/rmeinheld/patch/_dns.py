"""`socket.getaddrinfo` and the other resolver functions: they block in the C library, so they run on OS threads."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any

from ..coroutine import can_park, offload
from . import _state

NAMES = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn")


def _is_number(host: object) -> bool:
    """Whether `host` is a number, or empty, so that no resolver is needed."""
    if host is None or host in ("", b""):
        return True
    if isinstance(host, bytes):
        host = host.decode("latin-1")
    if not isinstance(host, str):
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError, UnicodeError):
            continue
        return True
    return False


def _cooperative(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    answers_numbers = name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex")

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        host = args[0] if args else kwargs.get("host")
        if (
            not can_park()
            or (answers_numbers and _is_number(host))
            or (name == "getnameinfo" and type(host) is not tuple)
        ):
            return original(*args, **kwargs)
        # The resolver imports it, and an import on another thread could wait for one on this thread.
        import encodings.idna  # noqa: F401

        return offload(original, *args, **kwargs)

    return function


def patch() -> None:
    """Replace the functions of `socket` that ask a resolver."""
    for name in NAMES:
        _state.replace(socket, name, _cooperative(name, getattr(socket, name)))
