"""Listening sockets: opened for an address or taken over, named for requests, and closed."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterable, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ._moved import forward
from .addresses import Address, Descriptor, TcpAddress, UnixAddress, is_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator

if not TYPE_CHECKING:
    __getattr__ = forward(
        __name__, "rmeinheld.addresses", ("DEFAULT_HOST", "DEFAULT_PORT", "address_of", "parse_address", "unix_address")
    )

__all__ = ["Listener", "close_all", "open_all", "open_listener", "systemd_descriptors"]

UNIX_PATH_MAX_BYTES: Final = 107
"""Longest path of a Unix socket: `sun_path` of unix(7) holds 108 bytes, with the final NUL."""

SYSTEMD_FIRST_DESCRIPTOR: Final = 3
"""The first descriptor that systemd passes: SD_LISTEN_FDS_START of sd_listen_fds(3)."""

UNIX_SERVER_NAME: Final = "localhost"
UNIX_SERVER_PORT: Final = "80"
# SERVER_NAME and SERVER_PORT can never be empty (PEP 3333), but a Unix socket has neither. For a request without a Host
# field, these values make the PEP's reconstruction of the URL yield http://localhost/path.


class Listener:
    """A listening socket, and its names for requests.

    `server_name` and `server_port` are a request's SERVER_NAME and SERVER_PORT. The start line shows `url`.
    `is_inherited` is true for a socket that another process made. `path` is that of a Unix socket of ours.
    """

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.socket: Final = sock
        self.is_inherited: Final = isinstance(address, Descriptor)
        self.server_name, self.server_port, self.url = _names(sock, address)
        self.path: str | None = None
        self._identity: tuple[int, int] | None = None
        self._owner = os.getpid()
        if isinstance(address, UnixAddress) and not address.is_abstract:
            # Absolute, because the application may change the directory before the socket is closed.
            self.path = os.path.abspath(address.path)
            self._identity = _identity(self.path)

    def __repr__(self) -> str:
        return f"<Listener {self.url}>"

    def set_backlog(self, backlog: int) -> None:
        """Set how many connections wait in the kernel. An inherited socket keeps its own number."""
        if not self.is_inherited:
            self.socket.listen(backlog)

    def close(self) -> None:
        """Close the socket, and remove its path if it still belongs to this socket. May be repeated.

        An inherited descriptor stays open: only this object's duplicate is closed. In a forked child the path stays,
        because the parent and other children still listen there.
        """
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        if self.path is not None and self._owner == os.getpid():
            with suppress(OSError):
                if _identity(self.path) == self._identity:
                    os.unlink(self.path)


def open_listener(
    address: Address,
    *,
    backlog: int = 2048,
    reuse_port: bool = False,
    umask: int | None = None,
    only_ipv6: bool = False,
) -> Listener:
    """Make the listening socket of `address`, or take over that of a descriptor. The socket does not block.

    `backlog` is the number of connections that wait in the kernel. `reuse_port` sets SO_REUSEPORT. `umask` is the mask
    of permissions of a Unix socket's path (None: that of the process). `only_ipv6` leaves the IPv4 addresses out of
    `[::]`, which includes them otherwise. A descriptor ignores all four options.

    Raises OSError, whose `strerror` names the address and the fault. The address may be in use, forbidden or unknown,
    its path may be another kind of file, and its descriptor may be no listening stream socket.
    """
    if isinstance(address, Descriptor):
        sock = _take_over(address)
    elif isinstance(address, UnixAddress):
        sock = _listen_unix(address, backlog, umask)
    else:
        sock = _listen_tcp(address, backlog, reuse_port, only_ipv6)
    try:
        return Listener(sock, address)
    except BaseException:
        sock.close()
        raise


def open_all(
    addresses: Iterable[Address], *, backlog: int = 2048, reuse_port: bool = False, umask: int | None = None
) -> list[Listener]:
    """Open a listener for each address. If one fails, the others are closed. See `open_listener`.

    `[::]` includes the IPv4 addresses, unless the list has an IPv4 address with the same port. A name or a
    descriptor may stand for that address. Both can then be bound, in either order.
    """
    wanted = list(addresses)
    opened: dict[int, Listener] = {}
    try:
        # The wildcards come last, when the ports of the IPv4 sockets are known.
        for index, address in sorted(enumerate(wanted), key=lambda entry: _is_ipv6_wildcard(entry[1])):
            only_ipv6 = isinstance(address, TcpAddress) and address.port in _ipv4_ports(opened.values())
            opened[index] = open_listener(
                address, backlog=backlog, reuse_port=reuse_port, umask=umask, only_ipv6=only_ipv6
            )
    except BaseException:
        close_all(opened.values())
        raise
    return [opened[index] for index in range(len(wanted))]


def close_all(listeners: Iterable[Listener]) -> None:
    """Close every listener."""
    for listener in listeners:
        listener.close()


def systemd_descriptors(environ: MutableMapping[str, str]) -> list[Descriptor]:
    """Return the descriptors that systemd has passed to this process (sd_listen_fds(3)), or an empty list.

    They count only if LISTEN_PID is this process. Then LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are removed from
    `environ`, so that no child acts on them. Raises ValueError if LISTEN_FDS is not a number.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not re.fullmatch(r"\d{1,6}", count, re.ASCII):
        raise ValueError(f"LISTEN_FDS must be a number of descriptors, not {count!r}")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    passed = [Descriptor(SYSTEMD_FIRST_DESCRIPTOR + index) for index in range(int(count))]
    for descriptor in passed:
        # As sd_listen_fds(3) does: programs that the application starts must not inherit them.
        with suppress(OSError):
            os.set_inheritable(descriptor.number, False)
    return passed


# --- below -----------------------------------------------------------------------------------------------------------


@contextmanager
def _naming(address: Address) -> Iterator[None]:
    """Add the address to the text of an OSError."""
    try:
        yield
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    except OSError as error:
        # OSError picks the subclass, such as PermissionError, by the number.
        text = error.strerror or str(error)
        raise OSError(error.errno or errno.EINVAL, f"cannot listen on {address}: {text}") from None
    except UnicodeError as error:
        # The idna codec refuses the host, for example a label that is too long.
        raise OSError(errno.EINVAL, f"cannot listen on {address}: {error}") from None


def _is_ipv6_wildcard(address: Address) -> bool:
    if not isinstance(address, TcpAddress) or not is_ipv6(address.host):
        return False
    from ipaddress import IPv6Address

    return IPv6Address(address.host).is_unspecified


def _ipv4_ports(listeners: Iterable[Listener]) -> set[int]:
    sockets = [listener.socket for listener in listeners]
    return {int(sock.getsockname()[1]) for sock in sockets if sock.family == socket.AF_INET}


def _listen_tcp(address: TcpAddress, backlog: int, reuse_port: bool, only_ipv6: bool) -> socket.socket:
    host = address.host or "0.0.0.0"
    with _naming(address):
        found = socket.getaddrinfo(
            # For a str, even an ASCII one, the codec "idna" is imported, which takes longer than the rest.
            host.encode() if host.isascii() else host,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        # A name such as "localhost" may have both: IPv4 comes first, as clients of 127.0.0.1 expect.
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        unavailable: OSError | None = None
        for family, kind, protocol, _, name in found:
            try:
                with ExitStack() as stack:
                    sock = stack.enter_context(socket.socket(family, kind, protocol))
                    if _is_ipv6_wildcard(address):
                        # Set in either case, because net.ipv6.bindv6only decides the default (RFC 3493 5.3).
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
                    _listen_inet(sock, name, backlog, reuse_port)
                    stack.pop_all()
                    return sock
            except OSError as error:
                # The next address is a substitute only if this one does not exist here. A port in use is an error:
                # half of the clients would reach the other server.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
                    raise
                unavailable = unavailable or error
        raise unavailable or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _listen_inet(sock: socket.socket, name: tuple[object, ...], backlog: int, reuse_port: bool) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Accepted sockets inherit it on Linux, so it costs no system call per connection.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind(name)
    sock.listen(backlog)
    sock.setblocking(False)


def _listen_unix(address: UnixAddress, backlog: int, umask: int | None) -> socket.socket:
    with _naming(address):
        if len(os.fsencode(address.path)) > UNIX_PATH_MAX_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"the path is longer than {UNIX_PATH_MAX_BYTES} bytes")
        if not address.is_abstract:
            _remove_stale_socket(address.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The permissions must be right from the start, and bind() has no other way to set them.
            before = os.umask(umask) if umask is not None else None
            try:
                sock.bind(os.fsencode(address.path))
            finally:
                if before is not None:
                    os.umask(before)
            sock.listen(backlog)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock


def _remove_stale_socket(path: str) -> None:
    """Remove the socket of a dead server at `path`. Raises OSError for another kind of file or a live socket."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            # No process listens: the file is left over.
            os.unlink(path)
            return
        except BlockingIOError:
            # Its queue is full, so a process listens.
            pass
        raise OSError(errno.EADDRINUSE, "another process listens there")


def _take_over(address: Descriptor) -> socket.socket:
    with _naming(address):
        try:
            # A duplicate: closing it leaves the caller's descriptor open.
            sock = socket.socket(fileno=os.dup(address.number))
        except OSError as error:
            if error.errno == errno.EBADF:
                raise OSError(errno.EBADF, f"descriptor {address.number} is not open") from None
            if error.errno == errno.ENOTSOCK:
                raise OSError(errno.ENOTSOCK, f"descriptor {address.number} is not a socket") from None
            raise
        try:
            if sock.type != socket.SOCK_STREAM or sock.family not in (
                socket.AF_INET,
                socket.AF_INET6,
                socket.AF_UNIX,
            ):
                raise OSError(errno.EPROTOTYPE, f"descriptor {address.number} is not a TCP or Unix stream socket")
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, f"the socket of descriptor {address.number} is not listening")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        return sock


def _names(sock: socket.socket, address: Address) -> tuple[str, str, str]:
    """SERVER_NAME, SERVER_PORT and URL of a bound socket."""
    bound = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(bound)
        url = str(UnixAddress(path)) if path else str(address)
        return UNIX_SERVER_NAME, UNIX_SERVER_PORT, url
    # An IPv6 address has brackets in SERVER_NAME (RFC 3875 4.1.14) and in the URL that is made of it.
    text = f"[{bound[0]}]" if ":" in bound[0] else str(bound[0])
    given = address.host if isinstance(address, TcpAddress) else ""
    name = given if given and ":" not in given else text
    return name, str(bound[1]), f"http://{text}:{bound[1]}"


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
