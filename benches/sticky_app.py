"""The application of sticky.py: clients that count, alone and for a room whose members are in all workers."""

from __future__ import annotations

import os
from typing import Any, Final

from flask import Flask, request
from flask_socketio import SocketIO, emit, join_room

from rmeinheld.socketio import CrewManager

app: Final = Flask(__name__)
socketio: Final = SocketIO(app, async_mode="threading", client_manager=CrewManager())
last: Final[dict[str, int]] = {}
"""The last number of each session, which only its worker knows."""


@app.route("/")
def index() -> dict[str, int]:
    """Answers before the clients come."""
    return {"pid": os.getpid()}


@socketio.on("join")  # type: ignore[untyped-decorator, unused-ignore]
def join(room: str) -> str:
    """Enters a room, and acknowledges with the id of the session."""
    join_room(room)
    session: str = request.sid  # type: ignore[attr-defined]
    return session


@socketio.on("count")  # type: ignore[untyped-decorator, unused-ignore]
def count(number: int, room: str) -> dict[str, Any]:
    """Acknowledges a number with the one before it, after an event to the client and one to its room."""
    session: str = request.sid  # type: ignore[attr-defined]
    before, last[session] = last.get(session, 0), number
    emit("counted", number)
    emit("told", (session, number), to=room)
    return {"before": before, "pid": os.getpid()}


@socketio.on("disconnect")  # type: ignore[untyped-decorator, unused-ignore]
def forget(*_: object) -> None:
    """Drops the session."""
    last.pop(request.sid, None)  # type: ignore[attr-defined]
