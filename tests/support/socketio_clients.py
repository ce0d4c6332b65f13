"""Clients of Socket.IO, one for each worker of a service."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import socketio

from serving import TIMEOUT

MOST_CONNECTIONS = 100


class Listener:
    """A client that is connected, and what it has heard."""

    def __init__(self, url: str, transports: Sequence[str] = ("websocket",)) -> None:
        self.heard: list[Any] = []
        self.answers: list[Any] = []
        self.client = socketio.Client(reconnection=False)
        self.client.on("said", self.heard.append)
        self.client.on("answered", self.answers.append)
        self.client.connect(url, transports=list(transports), wait_timeout=TIMEOUT)
        found = self.call("whoami")
        self.sid: str = found["sid"]
        self.pid: int = found["pid"]

    def call(self, event: str, *arguments: Any) -> Any:
        """Emit an event, and return the server's answer."""
        data = arguments if len(arguments) != 1 else arguments[0]
        return self.client.call(event, data if arguments else None, timeout=int(TIMEOUT))

    def hears(self, *expected: Any) -> bool:
        """Wait (bounded) until it has heard as many events as expected, and return whether they are these."""
        deadline = time.monotonic() + TIMEOUT
        while len(self.heard) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.heard == list(expected)


@contextmanager
def in_each_worker(url: str, workers: int, transports: Sequence[str] = ("websocket",)) -> Iterator[list[Listener]]:
    """Clients in as many different workers. The kernel chooses the worker of a connection, so more are made."""
    found: dict[int, Listener] = {}
    others: list[Listener] = []
    try:
        while len(found) < workers:
            assert len(others) < MOST_CONNECTIONS, f"{MOST_CONNECTIONS} connections met only the workers {list(found)}"
            listener = Listener(url, transports)
            if found.setdefault(listener.pid, listener) is not listener:
                others.append(listener)
        for other in others:
            other.client.disconnect()
        yield list(found.values())
    finally:
        for listener in [*found.values(), *others]:
            listener.client.disconnect()
