"""Clients of Flask-SocketIO that count, each in sessions of its own, and notice every event that is lost or foreign."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import socketio

__all__ = ["TRANSPORTS", "CountingClient"]

TRANSPORTS = (["polling"], ["polling", "websocket"], ["websocket"])
"""Long polling alone, an upgrade from it, and WebSocket from the beginning."""


PATIENCE = 30.0
"""Seconds after which an event counts as lost."""


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
            self._serve_session()

    def _serve_session(self) -> None:
        client = socketio.Client(reconnection=False)
        heard: list[int] = []
        ended = threading.Event()
        client.on("counted", heard.append)
        client.on("disconnect", lambda *_: ended.set())
        try:
            client.connect(self._url, transports=self._transports, wait_timeout=20)
        except socketio.exceptions.ConnectionError:
            # The worker ended in the middle of the handshake.
            time.sleep(0.05)
            return
        self.sessions += 1
        number = 0
        try:
            while not self._stop.is_set() and not ended.is_set():
                number += 1
                self._count(client, number, heard, ended)
        except (socketio.exceptions.BadNamespaceError, socketio.exceptions.DisconnectedError):
            # The session has ended: its worker did.
            pass
        finally:
            client.disconnect()

    def _count(self, client: Any, number: int, heard: list[int], ended: threading.Event) -> None:
        answers: list[dict[str, int]] = []
        client.emit("count", number, callback=answers.append)
        if not self._await(lambda: bool(answers), ended):
            if not ended.is_set():
                self.faults.append(f"{self._transports}: no acknowledgement of {number}")
                ended.set()
            return
        self.acknowledged += 1
        self.pids.add(answers[0]["pid"])
        if answers[0]["before"] != number - 1:
            self.faults.append(f"{self._transports}: {answers} for {number}")
        # Handlers run in threads.
        if not self._await(lambda: sorted(heard) == list(range(1, number + 1)), ended) and not ended.is_set():
            self.faults.append(f"{self._transports}: heard {heard[-5:]} of {number}")
        ended.wait(0.1)

    @staticmethod
    def _await(condition: Callable[[], bool], ended: threading.Event) -> bool:
        """Wait until the condition holds or the session has ended. Returns whether it holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline and not ended.is_set():
            time.sleep(0.005)
        return condition()
