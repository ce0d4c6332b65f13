"""Clients of Flask-SocketIO that count, each in a session of its own, and notice every event that is lost or foreign."""

from __future__ import annotations

import threading
import time
from typing import Any

import socketio

__all__ = ["TRANSPORTS", "CountingClient"]

TRANSPORTS = (["polling"], ["polling", "websocket"], ["websocket"])
"""Long polling alone, an upgrade from it, and WebSocket from the beginning."""


class CountingClient:
    """A client that counts from 1 in each session, and connects anew after the end of one."""

    def __init__(self, url: str, transports: list[str]) -> None:
        self._url, self._transports = url, transports
        self.faults: list[str] = []
        self.acknowledged = 0
        self.sessions = 0
        self.pids: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to count, in a thread."""
        self._thread.start()

    def finish(self, timeout: float) -> None:
        """Ask the client to stop, and wait until it has. A hang is a fault."""
        self._stop.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.faults.append("the client hangs")

    def _run(self) -> None:
        while not self._stop.is_set():
            client = socketio.Client(reconnection=False)
            heard: list[int] = []
            client.on("counted", heard.append)
            try:
                client.connect(self._url, transports=self._transports, wait_timeout=20)
            except socketio.exceptions.ConnectionError:
                # A worker that stops refuses new sessions; its listening socket is that of its siblings.
                time.sleep(0.05)
                continue
            self.sessions += 1
            try:
                self._count(client, heard)
            except (socketio.exceptions.BadNamespaceError, socketio.exceptions.DisconnectedError):
                # The session has ended: its worker did.
                pass
            except socketio.exceptions.TimeoutError:
                if client.connected:
                    self.faults.append(f"an event of {self._transports} was not acknowledged")
            finally:
                client.disconnect()

    def _count(self, client: Any, heard: list[int]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            found = client.call("count", number, timeout=20)
            self.acknowledged += 1
            self.pids.add(found["pid"])
            if found["before"] != number - 1:
                self.faults.append(f"{self._transports}: {found} for {number}")
            if heard != list(range(1, number + 1)):
                # The event comes before the acknowledgement, in the same order. Handlers run in threads.
                deadline = time.monotonic() + 5
                while sorted(heard) != list(range(1, number + 1)) and time.monotonic() < deadline:
                    time.sleep(0.01)
                if sorted(heard) != list(range(1, number + 1)):
                    self.faults.append(f"{self._transports}: heard {heard[-5:]} of {number}")
            time.sleep(0.02)
