"""Flask-SocketIO with events for one client at a time, in any number of workers."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request
from flask_socketio import SocketIO, emit

app = Flask(__name__)
# Without async_mode engineio takes eventlet or gevent where it finds them.
socketio = SocketIO(app, async_mode="threading")
last: dict[str, int] = {}


@app.route("/")
def index() -> dict[str, int]:
    """Answers before the clients come."""
    return {"pid": os.getpid()}


@socketio.on("count")  # type: ignore[untyped-decorator, unused-ignore]
def count(number: int) -> dict[str, Any]:
    """Acknowledges a number with the one before it, which only the worker of the session knows, and emits it."""
    session = request.sid  # type: ignore[attr-defined]
    before, last[session] = last.get(session, 0), number
    emit("counted", number)
    return {"before": before, "pid": os.getpid()}


@socketio.on("disconnect")  # type: ignore[untyped-decorator, unused-ignore]
def forget(*_: object) -> None:
    """Drops the session."""
    last.pop(request.sid, None)  # type: ignore[attr-defined]
