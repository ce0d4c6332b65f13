"""The listening sockets of a service: opened as without Gunicorn, and handed on to a new master."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from rmeinheld.addresses import Address, UnixAddress, parse_address
from rmeinheld.listeners import Listener, open_all, systemd_descriptors
from rmeinheld.settings import Settings

__all__ = ["ServiceSocket", "close_sockets", "open_sockets", "opened_again", "passed_by_systemd", "taken_over"]


class ServiceSocket:
    """A listening socket, with the methods that Gunicorn's code calls. `bind` is its address as configured."""

    def __init__(self, listener: Listener, bind: str, *, is_tls: bool = False) -> None:
        self.listener = listener
        self.bind = bind
        self._url = listener.url.replace("http:", "https:", 1) if is_tls else listener.url

    @property
    def sock(self) -> socket.socket:
        return self.listener.socket

    def __str__(self) -> str:
        return self._url

    def fileno(self) -> int:
        return self.sock.fileno()

    def getsockname(self) -> Any:
        return self.sock.getsockname()

    def get_backlog(self) -> int:
        """Return -1: the number of waiting connections is unknown."""
        return -1

    def close(self, *, unlink: bool = False) -> None:
        """Close the socket, and with `unlink` remove its path if it still belongs to this socket."""
        if unlink:
            self.listener.close()
        else:
            self.sock.close()


def open_sockets(binds: Iterable[str], settings: Settings, owner: tuple[int, int] | None = None) -> list[ServiceSocket]:
    """Open a socket for each address. `owner` is the user and group that get the paths of Unix sockets.

    Raises OSError or ValueError naming the address.
    """
    texts = list(binds)
    addresses = [parse_address(text) for text in texts]
    listeners = open_all(addresses, backlog=settings.backlog, reuse_port=settings.reuse_port, umask=settings.umask)
    if owner is not None:
        for address in addresses:
            if isinstance(address, UnixAddress) and not address.is_abstract:
                os.chown(address.path, *owner)
    return [_made(listener, text, settings) for listener, text in zip(listeners, texts, strict=True)]


def opened_again(
    current: Sequence[ServiceSocket], binds: Sequence[str], settings: Settings, owner: tuple[int, int] | None = None
) -> list[ServiceSocket]:
    """Return the sockets of `binds`: those of `current` that are still wanted, and new ones. `current` stays open.

    Raises OSError or ValueError naming an address that cannot be opened.
    """
    left = list(current)
    kept: dict[int, ServiceSocket] = {}
    for index, text in enumerate(binds):
        if (same := next((each for each in left if each.bind == text), None)) is not None:
            left.remove(same)
            kept[index] = same
    opened = iter(open_sockets([text for index, text in enumerate(binds) if index not in kept], settings, owner))
    return [kept.get(index) or next(opened) for index in range(len(binds))]


def passed_by_systemd(settings: Settings) -> list[ServiceSocket]:
    """Return the sockets that systemd has passed to this process. Raises OSError or ValueError."""
    passed: list[Address] = list(systemd_descriptors(os.environ))
    return [_made(listener, str(address), settings) for listener, address in zip(open_all(passed), passed, strict=True)]


def taken_over(handed_on: Iterable[tuple[str, int]], settings: Settings) -> list[ServiceSocket]:
    """Return the sockets that the master of before has handed on, each as an address and a descriptor."""
    found = []
    for text, number in handed_on:
        sock = socket.socket(fileno=number)
        sock.set_inheritable(False)
        sock.setblocking(False)
        found.append(_made(Listener(sock, parse_address(text)), text, settings))
    return found


def _made(listener: Listener, bind: str, settings: Settings) -> ServiceSocket:
    return ServiceSocket(listener, bind, is_tls=bool(settings.certfile))


def close_sockets(sockets: Iterable[ServiceSocket], *, unlink: bool = False) -> None:
    """Close the sockets, and with `unlink` remove the paths that still belong to them."""
    for one in list(sockets):
        one.close(unlink=unlink)
