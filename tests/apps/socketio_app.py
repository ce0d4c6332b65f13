"""A Flask-SocketIO application whose workers share their clients' events."""

from __future__ import annotations

from rmeinheld import patch

patch.patch_all()

import os  # noqa: E402
from typing import Any  # noqa: E402

import flask_socketio as sio  # noqa: E402
from flask import Flask, request  # noqa: E402

from rmeinheld.socketio import CrewManager  # noqa: E402

app = Flask(__name__)
socketio = sio.SocketIO(app, async_mode="threading", client_manager=CrewManager(), cors_allowed_origins="*")
DISCONNECTED: list[str] = []


def sid() -> str:
    """Return the id of the client that the event is from."""
    return str(request.sid)  # type: ignore[attr-defined]


@app.get("/")
def pid() -> dict[str, Any]:
    """Answer with the process, and the clients that it has seen leave."""
    return {"pid": os.getpid(), "disconnected": DISCONNECTED}


@app.post("/emit/<event>")
def emit(event: str) -> dict[str, Any]:
    """Emit the JSON of the body, from outside of any client's event."""
    socketio.emit(event, request.get_json())
    return {"pid": os.getpid()}


@socketio.on("whoami")  # type: ignore[untyped-decorator, unused-ignore]
def whoami() -> dict[str, Any]:
    """Answer with the client's id and process."""
    return {"sid": sid(), "pid": os.getpid()}


@socketio.on("say")  # type: ignore[untyped-decorator, unused-ignore]
def say(data: Any) -> str:
    """Send the data to all clients."""
    sio.emit("said", data, broadcast=True)
    return "ok"


@socketio.on("say to")  # type: ignore[untyped-decorator, unused-ignore]
def say_to(to: Any, data: Any) -> str:
    """Send the data to a room or a client, or several."""
    sio.emit("said", data, to=to, include_self=False)
    return "ok"


@socketio.on("ask")  # type: ignore[untyped-decorator, unused-ignore]
def ask(target: str, question: Any) -> None:
    """Ask another client, and send its answer to the one that asks."""
    asker = sid()

    def answered(*answer: Any) -> None:
        socketio.emit("answered", list(answer), to=asker)

    sio.emit("question", question, to=target, callback=answered)


@socketio.on("enter")  # type: ignore[untyped-decorator, unused-ignore]
def enter(room: str, target: str | None = None) -> str:
    """Enter a room, or have another client enter it."""
    sio.join_room(room, sid=target or sid())
    return "ok"


@socketio.on("leave")  # type: ignore[untyped-decorator, unused-ignore]
def leave(room: str, target: str | None = None) -> str:
    """Leave a room, or have another client leave it."""
    sio.leave_room(room, sid=target or sid())
    return "ok"


@socketio.on("close")  # type: ignore[untyped-decorator, unused-ignore]
def close(room: str) -> str:
    """Empty a room."""
    sio.close_room(room)
    return "ok"


@socketio.on("throw out")  # type: ignore[untyped-decorator, unused-ignore]
def throw_out(target: str) -> str:
    """Disconnect another client."""
    sio.disconnect(sid=target)
    return "ok"


@socketio.on("disconnect")  # type: ignore[untyped-decorator, unused-ignore]
def disconnected(*_: Any) -> None:
    """Note who leaves."""
    DISCONNECTED.append(sid())
