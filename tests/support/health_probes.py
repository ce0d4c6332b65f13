"""Clients of the admin listener, and the receiver of notes to systemd."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving import TIMEOUT, Connection, Response, request

type Address = str | tuple[str, int]


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class UnixConnection(Connection):
    """A connection to a Unix socket."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self.buffer = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise


def connect(address: Address) -> Connection:
    """A connection to an admin listener."""
    return UnixConnection(address) if isinstance(address, str) else Connection(address)


def probe(address: Address, target: str = "/ready", method: str = "GET") -> Response:
    """Ask an admin listener, which must end the connection after its answer."""
    with closing(connect(address)) as connection:
        response = connection.request(request(method, target), method)
        connection.expect_end()
        return response


def await_status(address: Address, status: int, target: str = "/ready") -> Response:
    """Ask until the answer has this status. AssertionError with the last answer otherwise."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        last: object = None
        try:
            last = response = probe(address, target)
            if response.status == status:
                return response
        except (ConnectionRefusedError, FileNotFoundError) as error:
            last = error
        assert time.monotonic() < deadline, last
        time.sleep(0.01)


@dataclass(frozen=True)
class Note:
    """One datagram to systemd, and the time when it was read."""

    fields: dict[str, str]
    at: float


class ServiceManager:
    """A socket like systemd's. `environment` is what a service finds in its environment."""

    def __init__(self, name: str, watchdog_usec: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.environment = {"NOTIFY_SOCKET": name}
        if watchdog_usec is not None:
            self.environment["WATCHDOG_USEC"] = str(watchdog_usec)
        self.notes: list[Note] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def read(self, seconds: float = TIMEOUT) -> Note:
        """The next note. AssertionError if none comes."""
        self._socket.settimeout(seconds)
        try:
            text = self._socket.recv(4096).decode()
        except TimeoutError:
            raise AssertionError(f"no note came for {seconds} s after {self.notes}") from None
        fields = dict(line.split("=", 1) for line in text.split("\n"))
        self.notes.append(Note(fields, time.monotonic()))
        return self.notes[-1]

    def read_until(self, field: str, value: str | None = None) -> Note:
        """The next note with this field, which has this value unless None."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            note = self.read(max(0.01, deadline - time.monotonic()))
            if field in note.fields and value in (None, note.fields[field]):
                return note

    def read_all(self) -> list[Note]:
        """The notes that have come and were not read yet."""
        notes: list[Note] = []
        self._socket.setblocking(False)
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except BlockingIOError:
                return notes
            notes.append(Note(dict(line.split("=", 1) for line in text.split("\n")), time.monotonic()))


@contextmanager
def service_manager(watchdog_usec: int | None = None, *, is_abstract: bool = False) -> Iterator[ServiceManager]:
    """A `ServiceManager`, whose variables are in this process's environment while the block runs."""
    with tempfile.TemporaryDirectory(prefix="notify") as directory:
        name = f"@{Path(directory).name}" if is_abstract else str(Path(directory) / "socket")
        with ServiceManager(name, watchdog_usec) as manager:
            before = dict(os.environ)
            os.environ.update(manager.environment)
            try:
                yield manager
            finally:
                os.environ.clear()
                os.environ.update(before)
