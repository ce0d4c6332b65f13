"""Questions to a server at its inspect socket, and its answers. `docs/inspecting.md` has the protocol."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any, Final, Protocol

__all__ = ["VERSION", "Answer", "Asker", "Client", "InspectError"]

VERSION: Final = 1
"""The version of the protocol."""

SECONDS: Final = 10.0
"""Time for one answer. The server's own limits are shorter."""

ATTEMPTS: Final = 3
"""Attempts for one question: the worker that took it may have been about to end."""

FULL_PAUSE: Final = 0.02
"""Seconds between two attempts to connect to a socket whose queue is full."""

PIECE: Final = 1 << 16

type Answer = dict[str, Any]


class InspectError(Exception):
    """No server answers at the socket, or it refuses the question. `answer` is the refusal, if there is one."""

    def __init__(self, message: str, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer: Final = answer or {}


class Asker(Protocol):
    """An object that answers questions: a `Client`, or a stand-in in tests."""

    def ask(self, question: str, **members: object) -> Answer:
        """Return the answer. Raises InspectError."""


class Client:
    """A client of the inspect socket at `path`. Each question has a connection of its own."""

    def __init__(self, path: str) -> None:
        self.path: Final = path

    def ask(self, question: str, **members: object) -> Answer:
        """Return the answer to a question: its name, and its further members.

        Raises InspectError if no server answers, or with the server's own text if it refuses.
        """
        line = json.dumps({"rmeinheld": VERSION, "ask": question, **members}).encode() + b"\n"
        # A second order to end a request would find that it has ended.
        attempts = 1 if question in ("kill", "reload") else ATTEMPTS
        while True:
            attempts -= 1
            text = self._exchange(line)
            if text:
                break
            if not attempts:
                raise InspectError(f"the server at {self.path} ended the connection before it answered")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "rmeinheld" not in answer:
            raise InspectError(f"what answers at {self.path} is no rmeinheld: {text[:80]!r}")
        if not answer.get("ok"):
            raise InspectError(str(answer.get("error", "the server refuses the question")), answer)
        return answer

    def _exchange(self, line: bytes) -> bytes:
        """Send a line and return the answer to it; empty if the server ended the connection."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            self._connect(connection)
            pieces = []
            try:
                connection.sendall(line)
                while piece := connection.recv(PIECE):
                    pieces.append(piece)
                    if piece.endswith(b"\n"):
                        break
            except TimeoutError:
                raise InspectError(f"the server at {self.path} has not answered within {SECONDS:g} s") from None
            except (BrokenPipeError, ConnectionResetError):
                pass
            text = b"".join(pieces)
            return text if text.endswith(b"\n") else b""

    def _connect(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return connection.connect(os.fsencode(self.path))
            except BlockingIOError:
                # The queue of the socket is full: others ask a lot.
                if time.monotonic() > deadline:
                    raise InspectError(f"the server at {self.path} accepts no connections: its queue is full") from None
                time.sleep(FULL_PAUSE)
            except OSError as error:
                raise InspectError(self._no_server(error)) from None

    def _no_server(self, error: OSError) -> str:
        if isinstance(error, FileNotFoundError):
            return f"there is no socket {self.path!r}; a server makes it with --inspect-socket"
        if isinstance(error, ConnectionRefusedError):
            return f"no server listens at {self.path!r} any more"
        return f"cannot connect to {self.path!r}: {error.strerror or error}"
