"""Addresses to listen on: their written forms, and the arguments of `run` that mean them.

An address is written as for Gunicorn: `host:port`, `[ipv6]:port`, `:port`, `unix:/path`, `fd://3`, and also `port`,
`unix:@name` (an abstract socket), `/path` and `@name`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final, NamedTuple, NoReturn

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "Address",
    "Descriptor",
    "TcpAddress",
    "UnixAddress",
    "address_of",
    "is_ipv6",
    "parse_address",
    "unix_address",
]

DEFAULT_HOST: Final = "127.0.0.1"
"""Default host, as for Gunicorn. Other machines cannot reach it."""

DEFAULT_PORT: Final = 8000
"""Port of an address without one, as for Gunicorn and Meinheld."""


class TcpAddress(NamedTuple):
    """A host name or literal address (empty: all IPv4 addresses) and a port (0: a free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """The path of a Unix socket. An abstract one (Linux) begins with a NUL character."""

    path: str

    @property
    def is_abstract(self) -> bool:
        """Is it a name in Linux's abstract namespace instead of a file?"""
        return self.path.startswith("\0")

    def __str__(self) -> str:
        return f"unix:@{self.path[1:]}" if self.is_abstract else f"unix:{self.path}"


class Descriptor(NamedTuple):
    """An inherited descriptor of a socket that is already listening."""

    number: int

    def __str__(self) -> str:
        return f"fd://{self.number}"


type Address = TcpAddress | UnixAddress | Descriptor


def parse_address(text: str) -> Address:
    """Read an address in one of the forms of this module's description.

    Raises ValueError naming the address and its fault.

    >>> parse_address("[::1]:8080")
    TcpAddress(host='::1', port=8080)
    >>> parse_address(":8080")
    TcpAddress(host='', port=8080)
    >>> parse_address("unix:@chat")
    UnixAddress(path='\\x00chat')
    """

    def refuse(why: str) -> NoReturn:
        raise ValueError(f"address {text!r} {why}")

    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
            refuse("has no descriptor number after fd://")
        return Descriptor(int(number))
    if text.startswith(("unix:", "/", "@")):
        # As for Gunicorn, "unix://" means "unix:": "unix:///run/app.sock" is "/run/app.sock".
        path = text.removeprefix("unix:")
        path = path.removeprefix("//") if text.startswith("unix:") else path
        if path in ("", "@"):
            refuse("has no path after unix:" if path == "" else "has no name after @")
        if "\0" in path:
            refuse("has a NUL character in its path")
        return _unix_address("\0" + path[1:] if path.startswith("@") else path)

    rest = text.removeprefix("tcp://")
    if bracketed := re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", rest, re.DOTALL):
        host, port = bracketed[1], bracketed[2]
        if not is_ipv6(host):
            refuse("has no IPv6 address between its brackets")
    elif rest.count(":") > 1:
        refuse("is ambiguous: write an IPv6 address in brackets, as in [::1]:8000")
    elif ":" in rest:
        host, port = rest.split(":")
    elif rest.isascii() and rest.isdigit():
        # A number replaces the port of the default address. All addresses of the machine are ":8000" or "0.0.0.0:8000".
        host, port = DEFAULT_HOST, rest
    else:
        host, port = rest, None
        if not host:
            refuse("is empty")
    if re.search(r"[\s/\[\]\0]", host):
        refuse(f"has no valid host: {host!r}")
    if port is None:
        return TcpAddress(host, DEFAULT_PORT)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        refuse(f"has no valid port: {port!r} is not an integer from 0 to 65535")
    return TcpAddress(host, int(port))


def address_of(host: object, port: object = DEFAULT_PORT) -> Address:
    """Return the address of the arguments `host` and `port` of `run`, or of a tuple.

    `host` is a name or a literal address (IPv6 with or without brackets). It can also be a Unix socket or an inherited
    descriptor as in `parse_address`; `port` is then ignored. `port` is an integer from 0 to 65535; 0 takes a free one.

    Raises TypeError or ValueError naming the value.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {type(host).__name__} {host!r}")
    if host.startswith(("unix:", "fd://", "/", "@")):
        return parse_address(host)
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be an integer from 0 to 65535, not {type(port).__name__} {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be an integer from 0 to 65535, not {port!r}")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in name and not is_ipv6(name)) or re.search(r"[\s/\[\]\0]", name):
        raise ValueError(f"host must be a host name or an address without a port, not {host!r}")
    return TcpAddress(name, port)


def unix_address(path: str | bytes) -> UnixAddress:
    """Return the address of a Unix socket with this path. A leading NUL means an abstract one.

    Raises ValueError if it is empty.
    """
    if path in ("", b"", "\0", b"\0"):
        raise ValueError(f"the path of a Unix socket must not be empty: {path!r}")
    return _unix_address(os.fsdecode(path))


def _unix_address(path: str) -> UnixAddress:
    if path.startswith("\0") and not sys.platform.startswith("linux"):
        raise ValueError(f"abstract Unix sockets such as 'unix:@{path[1:]}' exist on Linux only")
    return UnixAddress(path)


def is_ipv6(host: str) -> bool:
    if ":" not in host:
        return False
    # Most servers have no such address, and need no 0.3 MB for it.
    from ipaddress import IPv6Address

    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True
