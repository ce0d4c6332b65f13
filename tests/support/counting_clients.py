"""Clients of Flask-SocketIO that count, each in sessions of its own, and notice every event that is lost or foreign."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import engineio
import socketio

__all__ = ["PATIENCE", "TRANSPORTS", "CountingClient", "Session"]

TRANSPORTS = (["polling"], ["polling", "websocket"], ["websocket"])
"""Long polling alone, an upgrade from it, and WebSocket from the beginning."""


PATIENCE = 60.0
"""Seconds after which an event counts as lost."""

CONNECT_SECONDS = 20

EVENT_OR_ACK = ("2", "3")
"""The first characters of such packets (Socket.IO protocol, revision 5)."""


class _InOrder(engineio.Client):  # type: ignore[misc]
    """Calls the handlers of events in their order, instead of each one in a thread of its own."""

    def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        if event == "message" and isinstance(args[0], str) and args[0].startswith(EVENT_OR_ACK):
            kwargs["run_async"] = False
        return super()._trigger_event(event, *args, **kwargs)

    def _send_request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        response = super()._send_request(method, *args, **kwargs)
        if isinstance(response, str) or response.status_code != 200:
            self.failure = f"{method}: {response if isinstance(response, str) else response.text}"
        return response

    failure = ""
    """The last request that has failed."""


class _Client(socketio.Client):  # type: ignore[misc]
    def _engineio_client_class(self) -> type[engineio.Client]:
        return _InOrder


class Session:
    """One session of a client: its events, and the worker that answers."""

    def __init__(self) -> None:
        self.client = _Client(reconnection=False)
        self.ended = threading.Event()
        self.pid = 0
        self.acknowledged = 0
        """The last number that the server has acknowledged."""
        self.heard = 0
        """The last number that has come back."""
        self._changed = threading.Condition()
        self.reason = ""
        """The reason of the session's end."""
        self.client.on("disconnect", self.end)

    def end(self, reason: str) -> None:
        """Note the end, and wake the waiters."""
        self.reason = f"{reason} {self.client.eio.failure}".strip()
        self.ended.set()
        self.wake()

    def wake(self) -> None:
        """Have waiters look at their conditions again."""
        with self._changed:
            self._changed.notify_all()

    def await_(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds or the session has ended. Returns whether the condition holds."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or self.ended.is_set(), PATIENCE)
        return condition()

    def call(self, event: str, *arguments: Any) -> Any:
        """Emit an event and return its acknowledgement. None: the session has ended, or the event is lost."""
        answers: list[Any] = []

        def answer(value: Any) -> None:
            answers.append(value)
            self.wake()

        self.client.emit(event, arguments, callback=answer)
        return answers[0] if self.await_(lambda: bool(answers)) else None


class CountingClient:
    """A client that counts from 1 in each session, and connects anew after the end of one.

    It stays for `pause` seconds between two numbers.
    """

    def __init__(self, url: str, transports: list[str], pause: float = 0.1) -> None:
        self._url, self.transports, self._pause = url, transports, pause
        self.faults: list[str] = []
        self.acknowledged = 0
        self.sessions = 0
        self.refusals: list[str] = []
        """The reasons of attempts to connect that have failed."""
        self.pids: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to count, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the client to stop, without waiting for it."""
        self._stop.set()

    def finish(self, timeout: float) -> None:
        """Ask the client to stop, and wait until it has. A hang is a fault."""
        self.stop()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.faults.append("the client hangs")

    def new_session(self) -> Session:
        """Return a session to connect. Subclasses have others, with handlers of their own."""
        return Session()

    def connected(self, session: Session) -> None:
        """Act after the connection of a session, before its first number. For subclasses."""

    def counting(self, number: int) -> tuple[Any, ...]:
        """Return the arguments of the event that counts. For subclasses."""
        return (number,)

    def linger(self, session: Session) -> None:
        """Act after the last number of the last session, before its end. For subclasses."""

    def _run(self) -> None:
        while not self._stop.is_set():
            self._serve_session()

    def _serve_session(self) -> None:
        session = self.new_session()
        session.client.on("counted", lambda number: self._hear(session, number))
        try:
            session.client.connect(self._url, transports=self.transports, wait_timeout=CONNECT_SECONDS)
        except socketio.exceptions.ConnectionError as error:
            # The worker ended in the middle of the handshake.
            self.refusals.append(str(error))
            time.sleep(0.05)
            return
        self.sessions += 1
        try:
            self.connected(session)
            while not self._stop.is_set() and not session.ended.is_set():
                self._count(session)
            if not session.ended.is_set():
                self.linger(session)
        except (socketio.exceptions.BadNamespaceError, socketio.exceptions.DisconnectedError):
            # The session has ended: its worker did.
            pass
        finally:
            session.client.disconnect()

    def _count(self, session: Session) -> None:
        number = session.acknowledged + 1
        answer = session.call("count", *self.counting(number))
        if answer is None:
            if not session.ended.is_set():
                self.faults.append(f"{self.transports}: no acknowledgement of {number}")
                session.end("lost")
            return
        self.acknowledged += 1
        session.acknowledged, session.pid = number, answer["pid"]
        self.pids.add(answer["pid"])
        if answer["before"] != number - 1:
            self.faults.append(f"{self.transports}: {answer} for {number}")
        if not session.await_(lambda: session.heard >= number) and not session.ended.is_set():
            self.faults.append(f"{self.transports}: heard {session.heard} instead of {number}")
        session.ended.wait(self._pause)

    def _hear(self, session: Session, number: int) -> None:
        if number != session.heard + 1:
            self.faults.append(f"{self.transports}: heard {number} after {session.heard}")
        session.heard = number
        session.wake()
